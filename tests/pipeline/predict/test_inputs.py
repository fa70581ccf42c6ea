"""Files, folders, patterns and URLs are found; what is no image is counted, not predicted on."""

import pytest

from pipeline import storage
from pipeline.predict.errors import PredictError
from pipeline.predict.inputs import find_inputs


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/c.tif", "clip.MOV", "notes.txt", "done/b.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    return tmp_path / "photos"


def names(files):
    return [file.name for file in files]


def test_a_folder_holds_its_images_and_videos_but_not_the_results_below_it(folder):
    found = find_inputs([str(folder)], str(folder / "done"))
    assert names(found.images) == ["a.png", "b.jpg", "sub/c.png"]
    assert names(found.videos) == ["clip.mp4"]
    assert found.skipped == {".txt": 1, "(in the output folder)": 1}
    assert [file.source_name for file in found.images] == ["a.PNG", "b.jpg", "sub/c.tif"]


def test_patterns_match_files_and_leave_out_the_results(folder):
    pattern = str(folder / "**" / "*.*")
    found = find_inputs([pattern], str(folder / "done"))
    assert names(found.images) == ["a.png", "b.jpg", "notes.png", "sub/c.png"]
    assert names(find_inputs([str(folder / "[ab].*")], None).images) == ["a.png", "b.jpg"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(folder):
    (folder / "x[1].jpg").write_bytes(b"content")
    assert names(find_inputs([str(folder / "x[1].jpg")], None).images) == ["x[1].jpg"]


def test_results_of_equal_names_are_numbered(folder):
    files = [folder / "b.jpg", folder / "done" / "b.jpg", folder / "a.PNG"]
    (folder / "A.bmp").write_bytes(b"content")
    found = find_inputs([*map(str, files), str(folder / "A.bmp")], None)
    assert names(found.images) == ["b.jpg", "b_2.jpg", "a.png", "A_2.png"]


def test_a_named_file_is_an_image_whatever_its_suffix(folder):
    assert names(find_inputs([str(folder / "notes.txt")], None).images) == ["notes.png"]


@pytest.mark.parametrize("missing", ["nosuch.jpg", "nosuch/*.jpg", "nosuch", ""])
def test_a_missing_input_is_named(folder, missing):
    with pytest.raises(PredictError, match=r"no such file|no image or video"):
        find_inputs([f"{folder}/{missing}x"], None)


def test_a_folder_without_images_says_what_it_has(tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(PredictError, match=r"no image or video is there \(it has 1 .txt\)"):
        find_inputs([str(tmp_path)], None)


@pytest.mark.s3
def test_prefixes_and_patterns_of_a_bucket_are_found(s3):
    url = s3("photos")
    for name in ("a.jpg", "b.png", "deep/c.jpg", "notes.txt"):
        storage.write_bytes(f"{url}/{name}", b"content")
    assert names(find_inputs([url], None).images) == ["a.jpg", "b.png", "deep/c.jpg"]
    assert names(find_inputs([f"{url}/*.jpg"], None).images) == ["a.jpg", "deep/c.jpg"]
    assert names(find_inputs([f"{url}/b.png"], None).images) == ["b.png"]
    with pytest.raises(PredictError):
        find_inputs([f"{url}/nosuch"], None)
