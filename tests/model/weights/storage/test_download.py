"""Downloads from a local web server that behaves well or badly."""

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from model import build_detector, save_detector
from model.weights import WeightsError, load_network
from model.weights.storage import download as downloading
from model.weights.storage.download import fetch_weights

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behavior:
    content: bytes = CONTENT
    version: str | None = '"one"'
    ranges: bool = True
    # After how many bytes the next responses end early.
    cut_after: list[int] = field(default_factory=list)
    status: int = 200
    redirect: str | None = None
    chunked: bool = False
    requests: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        behavior = self.server.behavior
        behavior.requests.append(dict(self.headers))
        if behavior.redirect:
            self.send_response(302)
            self.send_header("Location", behavior.redirect)
            self.end_headers()
            return
        if behavior.status != 200:
            self.send_error(behavior.status)
            return
        start = self._start(behavior)
        if start is not None and start >= len(behavior.content):
            self.send_error(416)
            return
        body = behavior.content[start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            last = len(behavior.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        if not behavior.chunked:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        if behavior.version:
            self.send_header("ETag", behavior.version)
        self.end_headers()
        sent = body[: behavior.cut_after.pop(0)] if behavior.cut_after else body
        if behavior.chunked:
            end = b"0\r\n\r\n" if sent == body else b""
            sent = f"{len(sent):x}\r\n".encode() + sent + b"\r\n" + end
        self.wfile.write(sent)
        self.close_connection = True

    def _start(self, behavior):
        requested = self.headers.get("Range")
        if not requested or not behavior.ranges or self.headers.get("If-Range") != behavior.version:
            return None
        return int(requested.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *arguments):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(downloading.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(cache):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.behavior = Behavior()
    server.url = f"http://127.0.0.1:{server.server_port}/models/R-50.pkl"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def partial_files(cache):
    return [path for path in cache.iterdir() if ".partial" in path.name]


def test_a_file_is_downloaded_once(server, cache):
    path = fetch_weights(f"{server.url}#sha256={DIGEST.upper()}")
    assert path.read_bytes() == CONTENT
    assert path.parent == cache
    assert path.suffix == ".pkl"
    assert fetch_weights(f"{server.url}#sha256={DIGEST}") == path
    assert fetch_weights(server.url) == path
    assert len(server.behavior.requests) == 1
    assert not partial_files(cache)


def test_a_damaged_file_in_the_cache_is_downloaded_again(server):
    path = fetch_weights(server.url)
    path.write_bytes(b"damaged")
    assert fetch_weights(f"{server.url}#sha256={DIGEST}").read_bytes() == CONTENT


def test_an_interrupted_download_is_resumed_within_a_call(server, cache):
    server.behavior.cut_after = [3000, 4000]
    assert fetch_weights(server.url).read_bytes() == CONTENT
    assert [headers.get("Range") for headers in server.behavior.requests] == [
        None,
        "bytes=3000-",
        "bytes=7000-",
    ]
    assert server.behavior.requests[1]["If-Range"] == '"one"'
    assert not partial_files(cache)


def test_an_interrupted_download_is_resumed_by_a_later_call(server, cache):
    server.behavior.cut_after = [1000, 1000, 1000]
    with pytest.raises(WeightsError, match="interrupted 3 times, the last time after 3000 bytes"):
        fetch_weights(server.url)
    assert partial_files(cache)
    assert fetch_weights(server.url).read_bytes() == CONTENT
    assert server.behavior.requests[-1]["Range"] == "bytes=3000-"


def test_an_interrupted_chunked_response_is_not_taken_for_complete(server):
    server.behavior.chunked = True
    server.behavior.cut_after = [1000]
    assert fetch_weights(server.url).read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_sends_the_whole_file_again(server):
    server.behavior.ranges = False
    server.behavior.cut_after = [3000]
    assert fetch_weights(server.url).read_bytes() == CONTENT


def test_two_versions_of_a_file_are_not_mixed(server):
    server.behavior.cut_after = [1000, 1000, 1000]
    with pytest.raises(WeightsError, match="interrupted"):
        fetch_weights(server.url)
    server.behavior.content, server.behavior.version = CONTENT[::-1], '"two"'
    assert fetch_weights(server.url).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("version", [None, 'W/"weak"'])
def test_without_a_strong_etag_a_download_starts_over(server, version):
    server.behavior.version = version
    server.behavior.cut_after = [3000]
    assert fetch_weights(server.url).read_bytes() == CONTENT
    assert all("Range" not in headers for headers in server.behavior.requests)


def test_after_a_range_beyond_the_end_a_download_starts_over(server, cache):
    server.behavior.cut_after = [3000, 3000, 3000]
    with pytest.raises(WeightsError, match="interrupted"):
        fetch_weights(server.url)
    server.behavior.content = CONTENT[:500]  # with the same ETag
    assert fetch_weights(server.url).read_bytes() == CONTENT[:500]
    assert not partial_files(cache)


def test_a_wrong_digest_is_refused_and_the_file_deleted(server, cache):
    with pytest.raises(WeightsError, match=f"must have the SHA-256 0000.*; got {DIGEST}"):
        fetch_weights(f"{server.url}#sha256={'0' * 64}")
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


@pytest.mark.parametrize("status", [403, 404, 416, 500])
def test_an_error_status_is_reported_without_the_query(server, status):
    server.behavior.status = status
    with pytest.raises(WeightsError, match=rf"R-50\.pkl: the server responded {status}"):
        fetch_weights(server.url + "?signature=secret")


def test_no_server_and_no_response_are_reported(server, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT_S", 0.2)
    with pytest.raises(WeightsError, match="cannot download"):
        fetch_weights("http://127.0.0.1:1/x.pth")
    monkeypatch.setattr(Handler, "do_GET", lambda self: threading.Event().wait(1))
    with pytest.raises(WeightsError, match="cannot download"):
        fetch_weights(server.url)


@pytest.mark.parametrize(
    "target",
    ["http://example.com/x.pth", "file:///etc/passwd", "ftp://example.com/x.pth"],
)
def test_a_redirect_to_another_scheme_is_not_followed(server, target):
    server.behavior.redirect = target
    with pytest.raises(WeightsError, match=r"https://|the server responded 302"):
        fetch_weights(server.url)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("http://example.com/x.pth", "tampered"),
        ("s3://bucket/x.pth", "paths and https:// only"),
        ("file:///x.pth", "paths and https:// only"),
        ("https:///x.pth", "https:// only"),
        ("https://[x/y", "not a valid address"),
        ("https://example.com/x.pth#sha256=12", "64 hexadecimal"),
        ("https://user:word@example.com/x.pth#md5=1", r"^https://example\.com/x\.pth#md5=1"),
    ],
)
def test_other_addresses_are_refused(cache, source, message):
    with pytest.raises(WeightsError, match=message):
        fetch_weights(source)


def test_a_path_is_returned_unchanged(tmp_path):
    assert fetch_weights(tmp_path / "https:" / "x") == tmp_path / "https:" / "x"
    assert fetch_weights("a/b.pth").name == "b.pth"


def test_a_detector_is_loaded_from_an_address(server, tiny_config, tmp_path):
    detector = build_detector(tiny_config())
    save_detector(detector, tmp_path / "saved")
    server.behavior.content = (tmp_path / "saved" / "model.safetensors").read_bytes()
    loaded = load_network(server.url.replace("R-50.pkl", "x.safetensors"), detector.config)
    assert loaded.fpn.lateral[0].weight.equal(detector.fpn.lateral[0].weight)
