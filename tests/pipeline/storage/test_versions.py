"""A version changes with a file's content, and only files below the folder are listed."""

import boto3
import pytest

from pipeline import storage
from pipeline.storage import versions
from pipeline.storage.object_stores import Page
from pipeline.storage.versions import file_url, file_versions, list_versions
from tests.object_stores import STORES


@pytest.mark.parametrize("location", ["local", *STORES])
def test_versions_change_with_the_content_at_the_same_size(request, tmp_path, location):
    base = str(tmp_path) if location == "local" else request.getfixturevalue(location)("versions")
    folder = storage.join(base, "in")
    for name in ("in/a b.jpg", "in/sub/c.jpg", "in-other/d.jpg", "in.jpg"):
        storage.write_bytes(storage.join(base, name), b"first")
    first = file_versions(folder)
    assert set(first) == set(storage.list_files(folder)) and len(first) == 2
    assert file_versions(folder) == first
    changed = storage.join(folder, "sub/c.jpg")
    storage.write_bytes(changed, b"again")
    second = file_versions(folder)
    assert {url for url in first if first[url] != second[url]} == {changed}
    assert file_versions(changed) == {changed: second[changed]}
    assert file_versions(storage.join(base, "nowhere")) == {}


NAMES = (
    "a b.jpg",
    "a%20b.jpg",
    "a#b?c=d.jpg",
    "a-c/e.jpg",
    "a/b.jpg",
    "a/c/d.jpg",
    "a0.jpg",
    "no suffix",
    "ünï/ćødé.jpg",
)


@pytest.mark.parametrize("location", ["path", "file", *STORES])
def test_every_file_is_listed_once_by_its_own_name(request, tmp_path, location):
    """Names are not encoded, whatever the URL; files of a longer prefix do not belong."""
    base = {"path": str(tmp_path), "file": tmp_path.as_uri()}.get(location)
    is_local = base is not None
    base = base or request.getfixturevalue(location)("names")
    folder = storage.join(base, "in")
    for name in NAMES:
        storage.write_bytes(file_url(folder, name), name.encode())
    storage.write_bytes(storage.join(base, "in2/other.jpg"), b"")
    storage.write_bytes(storage.join(base, "in-3.jpg"), b"")
    if not is_local:
        store, path = storage.filesystem(storage.join(folder, "marker/of/a folder"))
        store.create_dir(path)
    else:
        (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
        (tmp_path / "in" / "broken.jpg").symlink_to(tmp_path / "nowhere")
    listed = [file.name for file in list_versions(folder)]
    assert sorted(listed) == sorted(NAMES)
    if is_local:
        assert listed == sorted(NAMES)
    for name in NAMES:
        assert storage.read_bytes(file_url(folder, name)) == name.encode()
        [single] = list_versions(file_url(folder, name))
        assert single.name == ""
    assert list(list_versions(storage.join(base, "i"))) == []


@pytest.mark.s3
def test_a_listing_of_many_pages_is_complete(s3):
    folder = s3("pages")
    bucket, _, prefix = folder.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    names = [f"{n:04d}" for n in range(1005)]
    for name in names:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"")
    assert [file.name for file in list_versions(folder)] == names


@pytest.mark.s3
def test_a_missing_bucket_is_named(s3):
    with pytest.raises(storage.MissingFileError, match=r"s3://no-such-bucket-here/x: no such"):
        list(list_versions("s3://no-such-bucket-here/x"))


def test_an_empty_page_with_a_token_is_not_the_end_of_a_listing(monkeypatch):
    """Google's protocol allows such pages; here the object is on the third."""

    class Store:
        def open_store(self, url):
            return None, url.removeprefix("gs://")

        def list_page(self, url, prefix, token, limit):
            objects = [("k", "7")] if token == "2" and "k".startswith(prefix) else []
            return Page(objects, {None: "1", "1": "2", "2": None}[token])

    monkeypatch.setattr(versions, "object_store", lambda url: Store())
    assert list(list_versions("gs://b/k")) == [("", "7")]
    assert list(list_versions("gs://b")) == [("k", "7")]
    assert list(list_versions("gs://b/other")) == []
