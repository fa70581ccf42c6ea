"""Weights from a web server of this machine: one that behaves, and several that do not."""

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from model import build_detector, load_detector, save_detector
from model.weights import WeightsError
from model.weights.storage import download as downloading
from model.weights.storage.download import local_path

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Behaviour:
    content: bytes = CONTENT
    version: str | None = '"one"'
    ranges: bool = True
    # The answers that end early, and after how many bytes.
    break_off: list[int] = field(default_factory=list)
    status: int = 200
    redirect: str | None = None
    chunked: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        behaviour = self.server.behaviour
        behaviour.asked.append(dict(self.headers))
        if behaviour.redirect:
            self.send_response(302)
            self.send_header("Location", behaviour.redirect)
            self.end_headers()
            return
        if behaviour.status != 200:
            self.send_error(behaviour.status)
            return
        start = self._start(behaviour)
        if start is not None and start >= len(behaviour.content):
            self.send_error(416)
            return
        body = behaviour.content[start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            last = len(behaviour.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{last + 1}")
        if not behaviour.chunked:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        if behaviour.version:
            self.send_header("ETag", behaviour.version)
        self.end_headers()
        sent = body[: behaviour.break_off.pop(0)] if behaviour.break_off else body
        if behaviour.chunked:
            end = b"0\r\n\r\n" if sent == body else b""
            sent = f"{len(sent):x}\r\n".encode() + sent + b"\r\n" + end
        self.wfile.write(sent)
        self.close_connection = True

    def _start(self, behaviour):
        asked = self.headers.get("Range")
        if not asked or not behaviour.ranges or self.headers.get("If-Range") != behaviour.version:
            return None
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *arguments):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(downloading.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(cache):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.behaviour = Behaviour()
    server.url = f"http://127.0.0.1:{server.server_port}/models/R-50.pkl"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def partial_files(cache):
    return [path for path in cache.iterdir() if ".partial" in path.name]


def test_a_file_is_fetched_once(server, cache):
    path = local_path(f"{server.url}#sha256={DIGEST.upper()}")
    assert path.read_bytes() == CONTENT
    assert path.parent == cache
    assert path.suffix == ".pkl"
    assert local_path(f"{server.url}#sha256={DIGEST}") == path
    assert local_path(server.url) == path
    assert len(server.behaviour.asked) == 1
    assert not partial_files(cache)


def test_a_damaged_cache_is_fetched_again(server):
    path = local_path(server.url)
    path.write_bytes(b"damaged")
    assert local_path(f"{server.url}#sha256={DIGEST}").read_bytes() == CONTENT


def test_what_broke_off_is_continued_within_a_call(server, cache):
    server.behaviour.break_off = [3000, 4000]
    assert local_path(server.url).read_bytes() == CONTENT
    assert [asked.get("Range") for asked in server.behaviour.asked] == [
        None,
        "bytes=3000-",
        "bytes=7000-",
    ]
    assert server.behaviour.asked[1]["If-Range"] == '"one"'
    assert not partial_files(cache)


def test_what_broke_off_is_continued_by_a_later_call(server, cache):
    server.behaviour.break_off = [1000, 1000, 1000]
    with pytest.raises(WeightsError, match="broke off 3 times, lastly after 3000 bytes"):
        local_path(server.url)
    assert partial_files(cache)
    assert local_path(server.url).read_bytes() == CONTENT
    assert server.behaviour.asked[-1]["Range"] == "bytes=3000-"


def test_a_chunked_answer_that_breaks_off_is_not_taken_for_whole(server):
    server.behaviour.chunked = True
    server.behaviour.break_off = [1000]
    assert local_path(server.url).read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_sends_all_again(server):
    server.behaviour.ranges = False
    server.behaviour.break_off = [3000]
    assert local_path(server.url).read_bytes() == CONTENT


def test_other_content_between_the_tries_is_not_mixed(server):
    server.behaviour.break_off = [1000, 1000, 1000]
    with pytest.raises(WeightsError, match="broke off"):
        local_path(server.url)
    server.behaviour.content, server.behaviour.version = CONTENT[::-1], '"two"'
    assert local_path(server.url).read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("version", [None, 'W/"weak"'])
def test_without_a_strong_version_it_begins_anew(server, version):
    server.behaviour.version = version
    server.behaviour.break_off = [3000]
    assert local_path(server.url).read_bytes() == CONTENT
    assert all("Range" not in asked for asked in server.behaviour.asked)


def test_a_range_beyond_the_end_begins_anew(server, cache):
    server.behaviour.break_off = [3000, 3000, 3000]
    with pytest.raises(WeightsError, match="broke off"):
        local_path(server.url)
    server.behaviour.content = CONTENT[:500]  # under the same version
    assert local_path(server.url).read_bytes() == CONTENT[:500]
    assert not partial_files(cache)


def test_another_digest_is_refused_and_nothing_kept(server, cache):
    with pytest.raises(WeightsError, match=f"has the SHA-256 {DIGEST}, not 0000"):
        local_path(f"{server.url}#sha256={'0' * 64}")
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


@pytest.mark.parametrize("status", [403, 404, 416, 500])
def test_the_server_s_refusal_is_passed_on(server, status):
    server.behaviour.status = status
    with pytest.raises(WeightsError, match=rf"R-50\.pkl: the server says {status}"):
        local_path(server.url + "?signature=secret")


def test_no_server_and_no_answer_are_told(server, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT_S", 0.2)
    with pytest.raises(WeightsError, match="cannot be fetched"):
        local_path("http://127.0.0.1:1/x.pth")
    monkeypatch.setattr(Handler, "do_GET", lambda self: threading.Event().wait(1))
    with pytest.raises(WeightsError, match="cannot be fetched"):
        local_path(server.url)


@pytest.mark.parametrize(
    "target",
    ["http://example.com/x.pth", "file:///etc/passwd", "ftp://example.com/x.pth"],
)
def test_a_redirection_elsewhere_is_not_followed(server, target):
    server.behaviour.redirect = target
    with pytest.raises(WeightsError, match=r"https://|the server says 302"):
        local_path(server.url)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("http://example.com/x.pth", "tampered"),
        ("s3://bucket/x.pth", "paths and https:// only"),
        ("file:///x.pth", "paths and https:// only"),
        ("https:///x.pth", "https:// only"),
        ("https://[x/y", "no address"),
        ("https://example.com/x.pth#sha256=12", "64 hexadecimal"),
        ("https://user:word@example.com/x.pth#md5=1", r"^https://example\.com/x\.pth#md5=1"),
    ],
)
def test_other_addresses_are_refused(cache, source, named):
    with pytest.raises(WeightsError, match=named):
        local_path(source)


def test_a_path_is_a_path(tmp_path):
    assert local_path(tmp_path / "https:" / "x") == tmp_path / "https:" / "x"
    assert local_path("a/b.pth").name == "b.pth"


def test_a_detector_is_loaded_from_an_address(server, tiny_config, tmp_path):
    detector = build_detector(tiny_config())
    save_detector(detector, tmp_path / "saved")
    server.behaviour.content = (tmp_path / "saved" / "model.safetensors").read_bytes()
    loaded = load_detector(server.url.replace("R-50.pkl", "x.safetensors"), detector.config)
    assert loaded.fpn.lateral[0].weight.equal(detector.fpn.lateral[0].weight)
