"""The address of a server: taken at once, or refused with one line."""

import socket

import pytest

from pipeline.config import ServeConfig
from pipeline.serve.errors import ListenError
from pipeline.serve.http_server import HttpServer, listen, url_of


def test_a_port_in_use_is_noticed_before_anything_else():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ListenError) as raised:
            listen("127.0.0.1", port)
    assert str(raised.value) == (
        f"port {port} of 127.0.0.1 is in use; stop the program that listens there, or set "
        "serve.port to another one (0: any free one)"
    )


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_refused(host):
    with pytest.raises(ListenError, match=f"cannot listen on port 0 of {host} .*serve.host"):
        listen(host, 0)


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")]
)
def test_the_url_of_a_server_reaches_it(host, shown):
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6")
    with listen(host, 0) as listening:
        port = listening.getsockname()[1]
        assert url_of(listening) == f"http://{shown}:{port}"
        socket.create_connection((shown.strip("[]"), port), timeout=5).close()


def test_a_server_listens_on_the_loopback_interface_by_default():
    with listen(ServeConfig().host, 0) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"


def test_a_header_without_end_is_refused_before_it_fills_the_memory():
    async def app(scope, receive, send):
        pytest.fail("the header never ended")

    listening = listen("127.0.0.1", 0)
    server = HttpServer(app, listening, 1.0)
    server.start()
    try:
        with socket.create_connection(listening.getsockname(), timeout=30) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000)
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    finally:
        server.stop()
