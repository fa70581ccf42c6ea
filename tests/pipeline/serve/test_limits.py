"""What a server refuses, with which status and reason, and before it has cost anything."""

import http.client
import json
import socket
import threading
import time
from urllib.parse import urlsplit

import psutil
import pytest

from tests.listening_sockets import is_loopback, listening_sockets
from tests.pipeline.serve.bad_requests import BAD_REQUESTS, GOOD

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_refused_with_a_reason(url, send, name):
    path, body, status, reason = BAD_REQUESTS[name]
    reply = send(f"{url}/{path}", body)
    assert reply.status == status, reply.body
    assert list(reply.content) == ["error"]
    assert reason in reply.content["error"] and "\n" not in reply.content["error"]


def test_a_form_is_refused_and_says_what_to_send(url, send):
    reply = send(f"{url}/predict", GOOD, {"content-type": "multipart/form-data; boundary=x"})
    assert reply.status == 415
    assert "curl --data-binary" in reply.content["error"]


def test_only_post_detects(url, send):
    assert send(f"{url}/predict").status == 405
    assert send(f"{url}/health", b"x").status == 405


@pytest.fixture
def connection(url):
    address = urlsplit(url)
    opened = socket.create_connection((address.hostname, address.port), timeout=30)
    yield opened
    opened.close()


def reply_on(connection):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, json.loads(response.read())["error"]


def test_a_large_body_is_refused_before_it_is_sent(connection):
    connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n")
    assert reply_on(connection) == (
        413,
        "the image has 10,000,000,000 bytes; the limit is 100,000 bytes (serve.max_megabytes)",
    )


def test_a_body_without_a_stated_length_is_refused_when_it_becomes_too_large(connection):
    connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(7):  # never the last one
        connection.sendall(b"4000\r\n" + bytes(0x4000) + b"\r\n")
    assert reply_on(connection) == (
        413,
        "the image is too large; the limit is 100,000 bytes (serve.max_megabytes)",
    )


def test_an_image_that_does_not_arrive_is_given_up(service, web_server):
    with web_server(service, timeout_s=0.5, queue=1) as url:
        address = urlsplit(url)
        started_s = time.monotonic()
        with socket.create_connection((address.hostname, address.port), timeout=30) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
            assert reply_on(slow) == (
                408,
                "the image did not arrive in 0.5 s (serve.timeout_s)",
            )
        assert time.monotonic() - started_s < 10


def test_requests_beyond_the_queue_are_refused_and_others_are_not_lost(service, web_server, send):
    with web_server(service, queue=1) as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as first:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(GOOD)}\r\n\r\n"
            first.sendall(head.encode() + GOOD[:-1])
            wait_for(lambda: b"in_progress 1.0" in send(f"{url}/metrics").body)
            refused = send(f"{url}/predict", GOOD)
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert "1 requests are in progress (serve.queue)" in refused.content["error"]
            first.sendall(GOOD[-1:])
            response = http.client.HTTPResponse(first)
            response.begin()
            assert response.status == 200
        assert send(f"{url}/predict", GOOD).status == 200


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_server_whose_model_is_loading_is_alive_but_not_ready(web_server, send):
    with web_server(None) as url:
        assert send(f"{url}/health").content == {"status": "ok"}
        for path, body in (("ready", None), ("predict", GOOD)):
            reply = send(f"{url}/{path}", body)
            assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert reply.content == {"error": "the model is loading; try again soon"}


def test_a_server_that_stops_finishes_the_requests_that_it_has(service, web_server, send):
    with web_server(service) as url:
        address = urlsplit(url)
        started = socket.create_connection((address.hostname, address.port), timeout=30)
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(GOOD)}\r\n\r\n"
        started.sendall(head.encode() + GOOD[:-1])
        wait_for(lambda: b"in_progress 1.0" in send(f"{url}/metrics").body)
        rest = threading.Timer(0.5, started.sendall, (GOOD[-1:],))
        rest.start()
    assert rest.finished.is_set()  # the server has waited for the rest, and ended
    response = http.client.HTTPResponse(started)
    response.begin()
    assert response.status == 200
    assert json.loads(response.read())["boxes"]
    started.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port), timeout=30)


def test_the_replica_listens_on_the_loopback_interface_only(service):
    sockets = listening_sockets(psutil.Process())
    assert any("ServeReplica" in name for name, _, _ in sockets)
    assert [each for each in sockets if not is_loopback(each[1])] == []
