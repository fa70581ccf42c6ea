"""What the web server measures, in the format of Prometheus."""

import time
from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class ServerMetrics:
    """Counts of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "maskrcnn_requests",
            "Answered requests.",
            ("path", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "maskrcnn_request_seconds",
            "Time from the header of a request to the end of its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batch_images = Histogram(
            "maskrcnn_batch_images",
            "Images per forward pass.",
            buckets=_IMAGES,
            registry=self._registry,
        )
        self.in_progress = Gauge(
            "maskrcnn_requests_in_progress",
            "Requests for detections that are answered or wait.",
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)


class MeasuringMiddleware:
    """Counts and times every request.

    Args:
        app: the application that answers.
        metrics: where to count.
        paths: the paths that are told apart; others, which clients make up, are one.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, paths: Collection[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Implement ASGI."""
        started_s, status = time.monotonic(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            if scope["type"] == "http":
                path = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.requests.labels(path, str(status)).inc()
                self._metrics.seconds.labels(path).observe(time.monotonic() - started_s)
