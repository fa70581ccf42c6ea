"""The web application: a page, detections as JSON or drawn, health and metrics."""

import asyncio
import contextlib
import functools
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pipeline.config.serve import ServeConfig
from pipeline.serve.errors import RefusedError
from pipeline.serve.messages import Answer, DetectionRequest, DetectionService
from pipeline.serve.metrics import MeasuringMiddleware, ServerMetrics
from pipeline.serve.requests import read_image, read_parameters

logger = logging.getLogger(__name__)

_PAGE = Path(__file__).with_name("page.html")
# The page loads nothing from anywhere, and nothing that it shows can make it.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
_READY_TIMEOUT_S = 5.0
_TRY_AGAIN = {"Retry-After": "1"}


class DetectionApp:
    """Answers requests; those for detections as soon as there is a service.

    Args:
        settings: limits and defaults.

    Attributes:
        service: the replicas; None as long as the model is loading.
        asgi: the application, for a server.
    """

    def __init__(self, settings: ServeConfig) -> None:
        self.service: DetectionService | None = None
        self._settings = settings
        self._metrics = ServerMetrics()
        self._in_progress = 0
        self._page = _PAGE.read_text(encoding="utf-8")
        routes = [
            Route("/", self._show_page, methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/ready", self._ready, methods=["GET"]),
            Route("/metrics", self._show_metrics, methods=["GET"]),
            Route("/predict", functools.partial(self._detect, is_drawn=False), methods=["POST"]),
            Route("/draw", functools.partial(self._detect, is_drawn=True), methods=["POST"]),
        ]
        paths = [route.path for route in routes]
        self.asgi = Starlette(
            routes=routes,
            middleware=[Middleware(MeasuringMiddleware, metrics=self._metrics, paths=paths)],
            exception_handlers={RefusedError: _refuse, HTTPException: _refuse},
        )

    async def _show_page(self, _request: Request) -> Response:
        return HTMLResponse(self._page, headers={"Content-Security-Policy": _POLICY})

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, _request: Request) -> Response:
        service = self._started_service()
        try:
            async with asyncio.timeout(_READY_TIMEOUT_S):
                return JSONResponse({"status": "ready", **await service.describe()})
        except TimeoutError:
            raise RefusedError(503, f"no replica answered in {_READY_TIMEOUT_S:g} s") from None

    async def _show_metrics(self, _request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def _detect(self, request: Request, *, is_drawn: bool) -> Response:
        parameters = read_parameters(request.query_params, self._settings.min_score)
        service = self._started_service()
        with self._admitted():
            deadline_s = asyncio.get_running_loop().time() + self._settings.timeout_s
            try:
                async with asyncio.timeout_at(deadline_s):
                    image = await read_image(request, self._settings)
            except TimeoutError:
                raise RefusedError(408, f"the image did not arrive in {self._limit}") from None
            detection = DetectionRequest(
                image, parameters.min_score, parameters.classes, is_drawn=is_drawn
            )
            try:
                async with asyncio.timeout_at(deadline_s):
                    answer = await _call(service, detection)
            except TimeoutError:
                raise RefusedError(503, f"there was no answer in {self._limit}") from None
        if answer.batch_images:
            self._metrics.batch_images.observe(answer.batch_images)
        return Response(answer.body, answer.status, media_type=answer.media_type)

    @property
    def _limit(self) -> str:
        return f"{self._settings.timeout_s:g} s (serve.timeout_s)"

    def _started_service(self) -> DetectionService:
        if self.service is None:
            raise RefusedError(503, "the model is loading; try again soon")
        return self.service

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[None]:
        """Count a request, or refuse it before its body is read: bodies take memory too."""
        if self._in_progress >= self._settings.queue:
            raise RefusedError(
                503,
                f"{self._in_progress} requests are in progress (serve.queue); try again soon",
            )
        self._in_progress += 1
        self._metrics.in_progress.set(self._in_progress)
        try:
            yield
        finally:
            self._in_progress -= 1
            self._metrics.in_progress.set(self._in_progress)


async def _call(service: DetectionService, request: DetectionRequest) -> Answer:
    try:
        return await service.detect(request)
    except RefusedError:
        raise
    except Exception as error:
        logger.exception("a request failed")
        raise RefusedError(500, "the detector failed; the log of the server says why") from error


async def _refuse(_request: Request, error: Exception) -> Response:
    """Answer with one line that says why."""
    if isinstance(error, HTTPException):  # of Starlette: an unknown path or method
        return _error(error.status_code, error.detail, error.headers)
    if not isinstance(error, RefusedError):
        raise error
    return _error(error.status, error.reason, _TRY_AGAIN if error.status == 503 else None)


def _error(status: int, reason: str, headers: Mapping[str, str] | None) -> Response:
    body = json.dumps({"error": reason})
    return Response(body, status, headers, media_type="application/json")
