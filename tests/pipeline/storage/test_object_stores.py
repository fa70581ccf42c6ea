"""What only some stores do, and what jobs need of all of them, on real servers."""

import http.server
import os
import pickle
import threading
import traceback

import pyarrow.fs
import pytest

from pipeline import storage
from pipeline.storage import azure, gcs
from pipeline.storage.azure_account import account_at, account_of, split_url
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


@pytest.fixture
def azure_variables(monkeypatch):
    """Set variables of Azure, and only these: ``azure_variables(KEY="x")``."""

    def set_them(**values):
        for name in ("CONNECTION_STRING", "ACCOUNT", "ACCOUNT_NAME", "KEY", "SAS_TOKEN"):
            monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)
        for name, value in values.items():
            monkeypatch.setenv(f"AZURE_STORAGE_{name}", value)

    return set_them


@pytest.mark.parametrize("token", ["sv=2024&sig=abc", "?sv=2024&sig=abc"])
def test_a_token_has_its_question_mark_however_it_is_given(monkeypatch, azure_variables, token):
    given = []
    real = azure.AzureFileSystem
    monkeypatch.setattr(azure, "AzureFileSystem", lambda **each: given.append(each) or real(**each))
    azure._native.cache_clear()
    azure_variables(ACCOUNT="mine", SAS_TOKEN=token)
    storage.filesystem("az://c/k")
    azure_variables(CONNECTION_STRING=f"AccountName=mine;SharedAccessSignature={token};X=1")
    storage.filesystem("az://c/k")
    assert {each["sas_token"] for each in given} == {"?sv=2024&sig=abc"}
    azure_variables(ACCOUNT="mine", KEY="a2V5")
    storage.filesystem("az://c/k")
    assert given[-1]["sas_token"] is None


class _Server(http.server.BaseHTTPRequestHandler):
    statuses, requests = [], []

    def do_GET(self):
        # Google's client asks for the bucket too, in the background.
        is_counted = "/v1/b/b?" not in self.path
        if is_counted:
            self.requests.append(self.path)
        status = self.statuses.pop(0) if is_counted and self.statuses else 200
        self.send_response(status)
        body = b""
        if status == 200:
            body = b'{"items": [{"name": "k", "generation": "7"}]}'
            # Azure's client in pyarrow aborts the process if it cannot parse the type it is told.
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_PUT = do_GET  # noqa: N815 as the base class calls them

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server that gives these statuses in turn, then 200; its address is ``server.address``."""
    _Server.statuses, _Server.requests = [], []
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    running.address = f"http://127.0.0.1:{running.server_port}"
    yield running
    running.shutdown()
    running.server_close()


def test_a_refusal_does_not_tell_the_token(server, azure_variables):
    """pyarrow's message has the whole address."""
    settings = f"AccountName=mine;BlobEndpoint={server.address}/mine"
    azure_variables(CONNECTION_STRING=f"{settings};SharedAccessSignature=sv=2024&sig=c2VjcmV0")
    store, path = storage.filesystem("az://c/k")
    for use in (
        lambda: storage.read_bytes("az://c/k"),
        lambda: storage.write_bytes("az://c/k", b""),
        lambda: list_all("az://c/k"),
        lambda: store.open_input_file(path),
    ):
        _Server.statuses = [403] * 9
        with pytest.raises(OSError) as raised:
            use()
        assert "c2VjcmV0" not in "".join(traceback.format_exception(raised.value))
    assert all("sig=c2VjcmV0" in each for each in _Server.requests)
    assert len(_Server.requests) >= 4


def test_one_request_to_google_is_retried_by_us_alone(server, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.address)
    gcs._client.cache_clear()
    try:
        _Server.statuses = [503]
        with pytest.raises(OSError, match="503"):
            gcs.list_page("gs://b/k", "k", None, 1)
        assert len(_Server.requests) == 1
        _Server.statuses = [503]
        assert list(list_versions("gs://b/k")) == [("", "7")]
    finally:
        gcs._client.cache_clear()


def test_the_cloud_of_an_azure_url_is_not_dropped(azure_variables):
    azure_variables(KEY="a2V5")
    url = "abfss://c@mine.{}/k"
    for service in ("dfs.core.usgovcloudapi.net", "blob.core.usgovcloudapi.net"):
        account = account_at(url.format(service))
        assert account.endpoint == "https://mine.blob.core.usgovcloudapi.net"
    store, _ = storage.filesystem(url.format("dfs.core.usgovcloudapi.net"))
    assert pickle.loads(pickle.dumps(store)) == store
    assert isinstance(store, pyarrow.fs.PyFileSystem)
    assert storage.filesystem(url.format("dfs.core.windows.net")) != (store, "c/k")
    for host in ("dfs.fabric.microsoft.com", "dfs.core.windows.net.evil.example"):
        with pytest.raises(storage.StorageError, match=r"none of Azure's .* BlobEndpoint"):
            account_at(url.format(host))
    azure_variables(CONNECTION_STRING="AccountName=mine;EndpointSuffix=core.chinacloudapi.cn")
    assert account_at("az://c/k").endpoint == "https://mine.blob.core.chinacloudapi.cn"
    with pytest.raises(storage.StorageError, match=r"has the host core.windows.net, and AZURE"):
        account_at(url.format("dfs.core.windows.net"))


@pytest.mark.s3
def test_a_file_system_that_travels_leaves_the_key_behind(azure):
    store, path = storage.filesystem(f"{azure('pickle')}/x")
    data = pickle.dumps(store)
    assert account_of("").key.encode() not in data
    with pickle.loads(data).open_output_stream(path) as stream:
        stream.write(b"1")
    assert store.get_file_info(path).size == 1
