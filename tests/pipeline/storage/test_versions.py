"""A version changes with a file's content, and only files below the folder are listed."""

import pytest

from pipeline import storage
from pipeline.storage.versions import file_versions


@pytest.mark.parametrize("location", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_versions_change_with_the_content_at_the_same_size(request, tmp_path, location):
    base = str(tmp_path) if location == "local" else request.getfixturevalue("s3")("versions")
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
