"""Storage behaves the same on a local folder and in every object store, on real servers."""

import pytest

from pipeline import storage
from tests.object_stores import STORES


@pytest.fixture(params=["path", "file", *STORES])
def location(request, tmp_path):
    if request.param not in ("path", "file"):
        return request.getfixturevalue(request.param)("storage")
    folder = tmp_path / "with space"
    return str(folder) if request.param == "path" else folder.as_uri()


def test_write_bytes_round_trips_and_overwrites(location):
    url = storage.join(location, "a", "b.bin")
    storage.write_bytes(url, b"first, longer")
    storage.write_bytes(url, b"second")
    assert storage.read_bytes(url) == b"second"


def test_json_round_trips(location):
    url = storage.join(location, "x.json")
    storage.write_json(url, {"a": [1, None, "ü"]})
    assert storage.read_json(url) == {"a": [1, None, "ü"]}


def test_exists_finds_files_and_folders_only(location):
    storage.write_bytes(storage.join(location, "folder/file"), b"x")
    names = ("folder/file", "folder", "other")
    assert [storage.exists(storage.join(location, name)) for name in names] == [True, True, False]


def test_listing_is_recursive_sorted_complete_and_filtered_by_suffix(location):
    for name in ("b.jpg", "a/c.JPG", "a/d.txt", "a/e/f.png"):
        storage.write_bytes(storage.join(location, name), b"12")
    images = storage.list_files(location, (".jpg", ".png"))
    assert [url.removeprefix(location) for url in images] == ["/a/c.JPG", "/a/e/f.png", "/b.jpg"]
    assert all(storage.read_bytes(url) == b"12" for url in images)
    assert set(storage.file_sizes(location).values()) == {2}
    assert storage.list_files(images[0]) == [images[0]]
    assert storage.list_files(storage.join(location, "missing")) == []


def test_a_folder_round_trips_through_upload_and_download(location, tmp_path):
    files = {"one.txt": b"1", "deep/er/two.bin": bytes(range(256)) * 5000}
    source, target = tmp_path / "source", tmp_path / "target"
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    storage.upload_folder(source, storage.join(location, "copy"))
    storage.download_folder(storage.join(location, "copy"), target)
    downloaded = {p.relative_to(target).as_posix(): p.read_bytes() for p in target.rglob("*.*")}
    assert downloaded == files


def test_fetch_yields_a_local_file_or_folder(location):
    storage.write_bytes(storage.join(location, "model/a.txt"), b"abc")
    with storage.fetch(storage.join(location, "model/a.txt")) as path:
        assert path.read_bytes() == b"abc"
    with storage.fetch(storage.join(location, "model")) as path:
        assert (path / "a.txt").read_bytes() == b"abc"


def test_a_folder_is_moved_with_everything_in_it(location):
    for name in ("step_1/a", "step_1/deep/b", "step_10/a"):
        storage.write_bytes(storage.join(location, name), name.encode())
    storage.move_folder(storage.join(location, "step_1"), storage.join(location, "aside"))
    names = [url.removeprefix(location) for url in storage.list_files(location)]
    assert names == ["/aside/a", "/aside/deep/b", "/step_10/a"]
    assert storage.read_bytes(storage.join(location, "aside/deep/b")) == b"step_1/deep/b"
    assert not storage.exists(storage.join(location, "step_1"))
    with pytest.raises(storage.MissingFileError):
        storage.move_folder(storage.join(location, "step_1"), storage.join(location, "again"))


def test_a_file_is_told_from_a_folder(location):
    storage.write_bytes(storage.join(location, "folder/file"), b"x")
    names = ("folder/file", "folder", "other")
    assert [storage.is_file(storage.join(location, name)) for name in names] == [True, False, False]


def test_delete_removes_files_and_folders_and_can_be_repeated(location):
    folder = storage.join(location, "f")
    for name in ("a", "b"):
        storage.write_bytes(storage.join(folder, name), b"x")
    for url in (storage.join(folder, "a"), folder, folder):
        storage.delete(url)
        assert not storage.exists(url)


def test_the_error_of_a_missing_file_names_its_url(location):
    url = storage.join(location, "missing.json")
    for read in (storage.read_bytes, storage.read_json):
        with pytest.raises(storage.MissingFileError, match=r"missing\.json: no such file"):
            read(url)
    error = pytest.raises(storage.MissingFileError, match=r"missing\.json: no such file")
    with error, storage.fetch(url):
        pass


def test_the_error_of_invalid_json_names_its_url(location):
    storage.write_bytes(storage.join(location, "bad.json"), b"{")
    with pytest.raises(storage.StorageError, match=r"bad\.json: not valid JSON"):
        storage.read_json(storage.join(location, "bad.json"))


def test_a_failed_write_leaves_only_the_old_file(tmp_path):
    url = str(tmp_path / "x.bin")
    storage.write_bytes(url, b"old")
    with pytest.raises(TypeError):
        storage.write_bytes(url, "text")
    assert storage.read_bytes(url) == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


@pytest.mark.s3
def test_an_access_error_names_the_url_and_the_variables_to_check(s3, monkeypatch):
    url = storage.join(s3("refused"), "x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(storage.StorageError, match=r"refused.*/x.*AWS_ACCESS_KEY_ID"):
        storage.write_bytes(url, b"1")


def test_an_unsupported_scheme_is_an_error():
    with pytest.raises(storage.StorageError, match="gopher://x: unsupported URL scheme"):
        storage.read_bytes("gopher://x")
