import pytest

from pipeline import storage
from pipeline.infer.visualizations import visualization_name


@pytest.mark.parametrize(
    ("file_name", "expected"),
    [
        ("train/000000397133.jpg", "03_000000397133.png"),
        ("with space.tar.gz", "03_with space.tar.png"),
        ("../../etc/passwd", "03_passwd.png"),
        ("..", "03_...png"),
        ("a\\b\0c.jpg", "03_a_b_c.png"),
        ("ü" * 300, f"03_{'ü' * 60}.png"),
        ("", "03_.png"),
    ],
)
def test_the_name_of_a_drawn_image_is_a_file_name_whatever_the_image_is_called(
    tmp_path, file_name, expected
):
    name = visualization_name(3, file_name)
    assert name == expected
    storage.write_bytes(storage.join(str(tmp_path), name), b"an image")
    assert [path.name for path in tmp_path.iterdir()] == [name]
