"""The job: listen, load the model, answer until somebody stops it."""

import contextlib
import ipaddress
import logging
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline import cluster
from pipeline.config import RunConfig
from pipeline.serve.app import DetectionApp
from pipeline.serve.deployment import deployed_detector
from pipeline.serve.errors import ServeError
from pipeline.serve.followed_model import load_model, model_source
from pipeline.serve.http_server import HttpServer, listen, url_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningServer:
    """A server that answers.

    Args:
        url: its address.
        model: the version that it began with.
        http: serves HTTP in a thread.
    """

    url: str
    model: str
    http: HttpServer


def run_server(config: RunConfig) -> str:
    """Serve until SIGINT (Ctrl-C) or SIGTERM, then finish the requests in progress.

    Returns:
        The closing line of the job.

    Raises:
        ListenError: the port is in use.
        ServeError: the replicas do not start, or the server ended by itself.
        TrackingError, StorageError, WeightsError: the model cannot be loaded.
    """
    started_s = time.monotonic()
    with _interrupted_by_sigterm(), serving(config) as server:
        logger.info("answering at %s with %s; Ctrl-C stops", server.url, server.model)
        with contextlib.suppress(KeyboardInterrupt):
            server.http.wait()
            raise ServeError("the server of HTTP ended by itself; its log lines say why")
        logger.info("stopping; requests in progress are finished")
    return f"stopped after {time.monotonic() - started_s:.0f} s"


@contextlib.contextmanager
def serving(config: RunConfig) -> Iterator[RunningServer]:
    """Serve for a ``with`` block. At its end, the requests in progress are finished.

    The errors are those of `run_server`.
    """
    settings = config.serve
    listening = listen(settings.host, settings.port)
    app = DetectionApp(settings)
    http = HttpServer(app.asgi, listening, settings.stop_s)
    http.start()  # /health answers while the model is loading, and /ready says so
    try:
        url, port = url_of(listening), listening.getsockname()[1]
        _warn_if_open(settings.host)
        # Here, so that a wrong location is one line, and not the failure of a replica.
        model = load_model(model_source(config), config, "cpu").source
        with (
            cluster.session() as resources,
            _interrupted_by_sigterm(),  # again: Ray has replaced the handler
            deployed_detector(config, resources, port) as app.service,
        ):
            try:
                yield RunningServer(url, model, http)
            finally:
                http.stop()  # while the replicas are there
    finally:
        http.stop()


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM, which a scheduler, a container or `ray job stop` sends, like Ctrl-C."""
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        # None: the handler was set in C++, by Ray; it cannot be set again from here.
        signal.signal(signal.SIGTERM, signal.SIG_DFL if earlier is None else earlier)


def _warn_if_open(host: str) -> None:
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost"
    if not is_loopback:
        logger.warning(
            "serve.host=%s: everyone who reaches this machine can use the server; it has no login "
            "and no TLS",
            host,
        )
