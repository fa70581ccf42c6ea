"""A replica of the detector: decodes, detects in batches, and writes answers.

Ray Serve runs it in a process of its own. Everything slow happens in threads, so that the event
loop keeps collecting the next batch.
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from ray import serve

from model import Detections, Predictor
from model.images.decode import DecodeError, Pixels, decode_image
from pipeline.config import RunConfig
from pipeline.console import show_worker_logs
from pipeline.operator_backend import warn_if_not_compiled
from pipeline.predict.detector import DrawingDetector, labels_of
from pipeline.predict.errors import PredictError
from pipeline.serve.answers import drawn_answer, json_answer, refusal
from pipeline.serve.errors import RefusedError
from pipeline.serve.followed_model import FollowedModel, LoadedModel
from pipeline.serve.messages import Answer, DetectionRequest
from pipeline.serve.replica_port import listen_on_node_address

_MAX_FAILURES = 3  # forward passes in a row, after which Ray Serve restarts the replica


@dataclass(frozen=True)
class _Prediction:
    """The detections of one image, the model that made them, and the images of its batch."""

    detections: Detections
    model: LoadedModel
    batch_images: int


class DetectorReplica:
    """Answers requests with one copy of the model.

    Args:
        config: ``serve`` has the model and the wait of a batch.
        device: "cpu" or "cuda".
        batch: most images per forward pass.
        threads: CPU threads of a forward pass.
    """

    def __init__(self, config: RunConfig, device: str, batch: int, threads: int) -> None:
        listen_on_node_address()
        contextlib.ExitStack().enter_context(show_worker_logs())  # as long as the process lives
        if device == "cpu":
            torch.set_num_threads(min(threads, os.cpu_count() or 1))
        warn_if_not_compiled(torch.device(device))
        with _without_repeated_warnings():
            self._model = FollowedModel(config, device)
        self._predict_batch.set_max_batch_size(batch)
        # Alone in its batch, an image has nothing to wait for.
        self._predict_batch.set_batch_wait_timeout_s(config.serve.batch_wait_s if batch > 1 else 0)
        # Decoded images are large: at most those of this batch and of the next one are in memory.
        self._decoded = asyncio.Semaphore(2 * batch)
        self._inference = ThreadPoolExecutor(1, "inference")
        self._failures = 0
        threading.Thread(
            target=self._model.follow, args=(threading.Event(),), name="alias", daemon=True
        ).start()

    async def detect(self, request: DetectionRequest) -> Answer:
        """Answer a request; a wrong one is answered with the reason."""
        try:
            async with self._decoded:
                return await self._answer(request)
        except RefusedError as error:
            return refusal(error)

    async def describe(self) -> dict[str, object]:
        """Return the version of the model, and its classes."""
        model = self._model.current
        return {"model": model.source, "classes": list(model.predictor.class_names)}

    def check_health(self) -> None:
        """Raise if the replica should be restarted; Ray Serve asks regularly.

        Raises:
            RuntimeError: several forward passes in a row failed, as all do after an error of CUDA.
        """
        if self._failures >= _MAX_FAILURES:
            raise RuntimeError(f"the last {self._failures} forward passes failed")

    async def _answer(self, request: DetectionRequest) -> Answer:
        _labels(request, self._model.current.predictor)  # refuses unknown classes at once
        try:
            pixels = await asyncio.to_thread(decode_image, request.image)
        except DecodeError as error:
            raise RefusedError(400, f"the image cannot be decoded: {error}") from error
        prediction = await self._predict_batch(pixels)
        return await asyncio.to_thread(_write_answer, request, pixels, prediction)

    @serve.batch  # type: ignore[untyped-decorator]  # ray has no types
    async def _predict_batch(self, images: Sequence[Pixels]) -> list[_Prediction]:
        """Predict on the images that wait; called with one, returns one."""
        model = self._model.current
        try:
            detections = await asyncio.get_running_loop().run_in_executor(
                self._inference, lambda: model.predictor.predict(list(images), len(images))
            )
        except Exception:
            self._failures += 1
            raise
        self._failures = 0
        return [
            _Prediction(each, model, len(images) if index == 0 else 0)
            for index, each in enumerate(detections)
        ]


@contextlib.contextmanager
def _without_repeated_warnings() -> Iterator[None]:
    """Leave out what the job has said already when it loaded the same model as a check."""
    settings = logging.getLogger("pipeline.infer.model_files")
    settings.setLevel(logging.ERROR)
    try:
        yield
    finally:
        settings.setLevel(logging.NOTSET)


def _write_answer(request: DetectionRequest, pixels: Pixels, prediction: _Prediction) -> Answer:
    predictor = prediction.model.predictor
    # Of the model that predicted: the alias may have moved since the request was checked.
    detector = DrawingDetector(predictor, request.min_score, _labels(request, predictor))
    detections = detector.select(prediction.detections)
    if request.is_drawn:
        answer = drawn_answer(pixels, detections, detector)
    else:
        answer = json_answer(detections, detector, prediction.model.source)
    return replace(answer, batch_images=prediction.batch_images)


def _labels(request: DetectionRequest, predictor: Predictor) -> tuple[int, ...] | None:
    """Return the labels of the classes that a request keeps; None for all.

    Raises:
        RefusedError: the detector has no such class.
    """
    if not request.classes:
        return None
    try:
        return labels_of(request.classes, predictor.class_names)
    except PredictError as error:
        raise RefusedError(400, str(error)) from error
