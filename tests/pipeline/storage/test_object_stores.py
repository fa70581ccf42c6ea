"""What only some stores do, and what jobs need of all of them, on real servers."""

import os
import pickle

import pytest

from pipeline import storage
from pipeline.storage.azure_account import account_of, split_url
from pipeline.storage.object_stores import object_store
from pipeline.storage.versions import list_versions
from tests.object_stores import STORES


@pytest.mark.s3
def test_a_blob_is_whole_or_absent_while_it_is_written(azure):
    """pyarrow's own file system would show an empty file until the last byte is uploaded."""
    url = f"{azure('whole')}/a.bin"
    store, path = storage.filesystem(url)
    large = bytes(range(256)) * 80_000  # three blocks
    with store.open_output_stream(path) as stream:
        stream.write(large)
        assert not storage.exists(url)
        stream.write(b"end")
    assert storage.read_bytes(url) == large + b"end"
    with store.open_output_stream(path) as stream:
        stream.write(large)
        assert storage.read_bytes(url) == large + b"end"
    assert storage.read_bytes(url) == large


@pytest.mark.s3
def test_both_spellings_of_a_blob_are_the_same_file(azure):
    url = azure("spelling")
    storage.write_bytes(f"{url}/a b", b"1")
    other = url.replace("az://tests/", "abfss://tests@devstoreaccount1.dfs.core.windows.net/")
    assert storage.read_bytes(f"{other}/a b") == b"1"
    assert list(list_versions(other)) == list(list_versions(url))
    assert storage.list_files(other) == [f"{other}/a b"]
    assert storage.filesystem(other) == storage.filesystem(url)


@pytest.mark.parametrize("store", STORES)
def test_a_bucket_that_does_not_exist_is_named_at_once(request, store):
    scheme = request.getfixturevalue(store)("x").partition("://")[0]
    url = f"{scheme}://no-such-bucket-here/x"
    uses = [storage.read_bytes, list_all]
    if store != "s3":  # SeaweedFS makes the buckets that it is asked to write to
        uses.append(lambda url: storage.write_bytes(url, b"1"))
    for use in uses:
        with pytest.raises(storage.MissingFileError, match=rf"^{url}: no such file or folder, or"):
            use(url)
    assert not storage.exists(url)


def list_all(url):
    return list(list_versions(url))


@pytest.mark.parametrize("store", STORES)
def test_a_listing_continues_where_a_page_ends(request, store):
    folder = request.getfixturevalue(store)("pages")
    names = [f"{n}" for n in range(5)]
    for name in names:
        storage.write_bytes(f"{folder}/{name}", b"")
    prefix = storage.filesystem(folder)[1].partition("/")[2] + "/"
    keys, token = [], None
    while True:
        page = object_store(folder).list_page(folder, prefix, token, 2)
        assert len(page.objects) <= 2
        keys += [key for key, _ in page.objects]
        if (token := page.token) is None:
            break
    assert keys == [prefix + name for name in names]


@pytest.mark.s3
@pytest.mark.parametrize("store", ["gcs", "azure"])
def test_wrong_credentials_are_refused_with_advice(request, store, monkeypatch, tmp_path):
    url = f"{request.getfixturevalue(store)('refused')}/x"
    if store == "gcs":
        monkeypatch.delenv("STORAGE_EMULATOR_HOST")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
        advice = "Check GOOGLE_APPLICATION_CREDENTIALS"
    else:
        name = "AZURE_STORAGE_CONNECTION_STRING"
        monkeypatch.setenv(name, os.environ[name].replace("AccountKey=", "AccountKey=AAAA"))
        advice = "Check AZURE_STORAGE_ACCOUNT, AZURE_STORAGE_KEY"
    for use in (storage.read_bytes, storage.exists, list_all):
        with pytest.raises(storage.StorageError, match=rf"refused.*/x: (?s:.*){advice}"):
            use(url)


def test_the_account_of_a_url_and_its_credentials_come_from_the_environment(monkeypatch):
    for name in ("CONNECTION_STRING", "ACCOUNT", "ACCOUNT_NAME", "KEY", "SAS_TOKEN"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
    with pytest.raises(storage.StorageError, match="set AZURE_STORAGE_ACCOUNT or AZURE_STORAGE_CO"):
        account_of("")
    assert split_url("az://c/a/b") == ("", "c", "a/b")
    assert split_url("abfss://c@name.dfs.core.windows.net/a/b") == ("name", "c", "a/b")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "mine")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "secret")
    account = account_of("")
    assert account.endpoint == "https://mine.blob.core.windows.net"
    assert (account.name, account.key) == ("mine", "secret") and "secret" not in repr(account)
    assert account_of("other").endpoint == "https://other.blob.core.windows.net"
    settings = "AccountName=theirs;AccountKey=a2V5;EndpointSuffix=core.chinacloudapi.cn"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", settings)
    account = account_of("")
    assert account.endpoint == "https://theirs.blob.core.chinacloudapi.cn"
    assert account.key == "a2V5"


@pytest.mark.s3
def test_a_file_system_that_travels_leaves_the_key_behind(azure):
    store, path = storage.filesystem(f"{azure('pickle')}/x")
    data = pickle.dumps(store)
    assert account_of("").key.encode() not in data
    with pickle.loads(data).open_output_stream(path) as stream:
        stream.write(b"1")
    assert store.get_file_info(path).size == 1
