"""The server of HTTP: it listens before anything slow starts, and ends without losing a request."""

import errno
import math
import socket
import threading

import uvicorn
from starlette.types import ASGIApp

from pipeline.serve.errors import ListenError

_WAITING_CONNECTIONS = 2048


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that a port in use is noticed at once.

    Args:
        host: name or address, IPv4 or IPv6.
        port: 0 for any free one.

    Raises:
        ListenError: the port is in use, or the address is none of this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(
            (str(address[0]), port), family=family, backlog=_WAITING_CONNECTIONS
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ListenError(
                f"port {port} of {host} is in use; stop the program that listens there, or set "
                "serve.port to another one (0: any free one)"
            ) from error
        raise ListenError(
            f"cannot listen on port {port} of {host} ({error.strerror or error}); correct "
            "serve.host and serve.port"
        ) from error


def url_of(listening: socket.socket) -> str:
    """Return the address of a server for a browser on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class HttpServer:
    """Serves an application in a thread.

    Args:
        app: the application.
        listening: from `listen`; closed at the end.
        stop_s: seconds that requests in progress get to finish.
    """

    def __init__(self, app: ASGIApp, listening: socket.socket, stop_s: float) -> None:
        self._listening = listening
        config = uvicorn.Config(
            app,
            http="h11",  # the other one, httptools, has no limit on the size of a header
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(stop_s),
        )
        self._server = uvicorn.Server(config)
        # Not the thread's own state: a KeyboardInterrupt in join() marks a thread as ended that is
        # not (Python 3.11 and 3.12).
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._run, name="http", daemon=True).start()

    def wait(self) -> None:
        """Return when it has ended."""
        self._ended.wait()

    def stop(self) -> None:
        """Accept nothing new, finish what is in progress, and end; nothing if it has ended."""
        self._server.should_exit = True
        self._ended.wait()
        self._listening.close()

    def _run(self) -> None:
        try:
            self._server.run([self._listening])
        finally:
            self._ended.set()
