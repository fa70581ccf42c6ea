"""Names from outside never lead out of the folder that they are joined to."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import storage
from pipeline.infer.ledger import LedgerEntry, entry_url, read_entries, recorded_names, write_entry
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.manifest import MANIFEST_NAME, read_manifest
from tests.object_stores import STORES

UNSAFE = [
    "",
    ".",
    "/",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "/etc/passwd",
    "//host/x",
    "C:/x",
    "C:x",
    "..\\x",
    "a\\b",
    "a\0b",
    "a\nb",
]
SAFE = ["x", "a/b.json", "a..b", "...", ".hidden", "with space", "ü+,()", "a%2e%2e/b", "~/x"]


@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    for check in (lambda: storage.path_below(tmp_path, name), lambda: storage.check_name(name)):
        with pytest.raises(storage.UnsafeNameError, match="not a name inside a folder") as raised:
            check()
        assert isinstance(raised.value, storage.StorageError)


@pytest.mark.parametrize("name", SAFE)
def test_other_names_are_joined_as_they_are(tmp_path, name):
    assert storage.path_below(tmp_path, name) == tmp_path / name
    assert storage.check_name(name) == name


def test_a_link_that_leads_out_is_refused(tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "new")
    for name in ("link/x", "link", "file"):
        with pytest.raises(storage.UnsafeNameError, match="through a symbolic link"):
            storage.path_below(folder, name)


def test_a_folder_that_is_itself_a_link_is_no_way_out(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert storage.path_below(tmp_path / "link", "x") == tmp_path / "link/x"


@given(st.text(st.sampled_from("./\\a:\0C~"), max_size=12))
def test_every_accepted_name_stays_inside(name):
    try:
        storage.check_name(name)
    except storage.UnsafeNameError:
        return
    depth = 0
    for part in name.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        assert depth >= 0
    assert depth > 0


@pytest.mark.parametrize("store", STORES)
def test_records_in_a_bucket_lead_nowhere_else(request, store, shapes_images):
    """A manifest that names a shard elsewhere is refused, and so is a ledger's entry."""
    base = request.getfixturevalue(store)("untrusted")
    annotations, images = shapes_images
    write_shards(read_coco(str(annotations), str(images)), f"{base}/in", 4, 4)
    name = read_manifest(f"{base}/in").files[0].name
    text = storage.read_bytes(f"{base}/in/{MANIFEST_NAME}").decode()
    altered = text.replace(f'"{name}"', f'"../other/{name}"').encode()
    storage.write_bytes(f"{base}/in/{MANIFEST_NAME}", altered)
    with pytest.raises(storage.StorageError, match=r"manifest\.json: '\.\./other/.*is not a name"):
        read_manifest(f"{base}/in")
    entry = LedgerEntry(
        name="chunk",
        key="k",
        images=1,
        failed=0,
        objects=0,
        size=1,
        model="m",
        files=("a.jpg",),
        versions=("1",),
        image_ids=(1,),
    )
    write_entry(f"{base}/out", entry)
    chunk = entry_url(f"{base}/out", "chunk")
    hostile = storage.read_bytes(chunk).replace(b'"chunk"', b'"../../chunk"')
    storage.write_bytes(entry_url(f"{base}/out", "hostile"), hostile)
    names = recorded_names(f"{base}/out")
    assert names == ["chunk", "hostile"]
    assert dict(read_entries(f"{base}/out", names))["hostile"] is None


LISTING = """<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>
<Prefix>{prefix}</Prefix><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys>
<IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"""
CONTENT = "<Contents><Key>{key}</Key><Size>1</Size><ETag>e</ETag></Contents>"


@pytest.fixture
def hostile_store(monkeypatch):
    """An S3 server that lists any key; returns a function: key -> URL of a folder with it.

    Real servers refuse or normalize such keys.
    """
    keys = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, body=b""):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self):
            self.answer(200 if "/model/" in self.path else 404, b"x")

        def do_GET(self):
            if "list-type=2" in self.path:
                contents = "".join(CONTENT.format(key=escape(f"model/{key}")) for key in keys)
                self.answer(200, LISTING.format(prefix="model/", contents=contents).encode())
            else:
                self.answer(200, b"x")

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)

    def with_key(key):
        keys[:] = ["model.json", key]
        return "s3://bucket/model"

    yield with_key
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("key", ["../../escaped", "a/../../../escaped", "..\\escaped"])
def test_an_object_key_is_not_written_outside_the_download_folder(hostile_store, tmp_path, key):
    target = tmp_path / "a/b/target"
    with pytest.raises(storage.UnsafeNameError, match="escaped"):
        storage.download_folder(hostile_store(key), target)
    assert not [path for path in tmp_path.rglob("*") if "escaped" in path.name]


def test_the_hostile_store_delivers_harmless_keys(hostile_store, tmp_path):
    storage.download_folder(hostile_store("a/b"), tmp_path)
    assert (tmp_path / "a/b").read_bytes() == b"x"
