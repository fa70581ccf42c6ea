"""Laws of storage, the same on a local folder and on a real S3 server."""

import pytest

from pipeline import storage
from pipeline.storage import MissingFileError, StorageError, join


@pytest.fixture(params=["path", "file", pytest.param("s3", marks=pytest.mark.s3)])
def place(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3")("storage")
    folder = tmp_path / "with space"
    return str(folder) if request.param == "path" else folder.as_uri()


def test_bytes_read_back_as_written_and_overwriting_replaces(place):
    url = join(place, "a", "b.bin")
    storage.write_bytes(url, b"first, longer")
    storage.write_bytes(url, b"second")
    assert storage.read_bytes(url) == b"second"


def test_json_reads_back(place):
    url = join(place, "x.json")
    storage.write_json(url, {"a": [1, None, "ü"]})
    assert storage.read_json(url) == {"a": [1, None, "ü"]}


def test_exists_knows_files_folders_and_nothing(place):
    storage.write_bytes(join(place, "folder/file"), b"x")
    found = [storage.exists(join(place, name)) for name in ("folder/file", "folder", "other")]
    assert found == [True, True, False]


def test_listing_is_recursive_sorted_complete_and_filters_by_suffix(place):
    for name in ("b.jpg", "a/c.JPG", "a/d.txt", "a/e/f.png"):
        storage.write_bytes(join(place, name), b"12")
    images = storage.list_files(place, (".jpg", ".png"))
    assert [url.removeprefix(place) for url in images] == ["/a/c.JPG", "/a/e/f.png", "/b.jpg"]
    assert all(storage.read_bytes(url) == b"12" for url in images)
    assert set(storage.file_sizes(place).values()) == {2}
    assert storage.list_files(images[0]) == [images[0]]
    assert storage.list_files(join(place, "nothing")) == []


def test_a_folder_uploads_and_downloads_unchanged(place, tmp_path):
    files = {"one.txt": b"1", "deep/er/two.bin": bytes(range(256)) * 5000}
    source, target = tmp_path / "source", tmp_path / "target"
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    storage.upload_folder(source, join(place, "copy"))
    storage.download_folder(join(place, "copy"), target)
    back = {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*.*")}
    assert back == files


def test_fetch_gives_a_local_file_or_folder(place):
    storage.write_bytes(join(place, "model/a.txt"), b"abc")
    with storage.fetch(join(place, "model/a.txt")) as path:
        assert path.read_bytes() == b"abc"
    with storage.fetch(join(place, "model")) as path:
        assert (path / "a.txt").read_bytes() == b"abc"


def test_delete_removes_files_and_folders_and_may_be_repeated(place):
    storage.write_bytes(join(place, "f/a"), b"x")
    storage.write_bytes(join(place, "f/b"), b"x")
    for url in (join(place, "f/a"), join(place, "f"), join(place, "f")):
        storage.delete(url)
        assert not storage.exists(url)


def test_a_missing_file_is_named(place):
    url = join(place, "nothing.json")
    for read in (storage.read_bytes, storage.read_json):
        with pytest.raises(MissingFileError, match=r"nothing\.json"):
            read(url)
    with pytest.raises(MissingFileError, match="nothing"), storage.fetch(url):
        pass


def test_broken_json_is_named(place):
    storage.write_bytes(join(place, "bad.json"), b"{")
    with pytest.raises(StorageError, match=r"bad\.json: not valid JSON"):
        storage.read_json(join(place, "bad.json"))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    url = str(tmp_path / "x.bin")
    storage.write_bytes(url, b"old")
    with pytest.raises(TypeError):
        storage.write_bytes(url, "text")
    assert storage.read_bytes(url) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


@pytest.mark.s3
def test_a_wrong_key_names_the_url_and_the_variables_to_check(s3, monkeypatch):
    url = join(s3("refused"), "x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(StorageError, match=r"refused.*/x.*AWS_ACCESS_KEY_ID"):
        storage.write_bytes(url, b"1")


def test_an_unknown_scheme_is_refused():
    with pytest.raises(StorageError, match="gopher://x: unknown kind"):
        storage.read_bytes("gopher://x")
