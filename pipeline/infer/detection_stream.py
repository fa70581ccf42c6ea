"""Predict on a stream of encoded images: decode ahead, batch by shape, report unreadable images.

A batch of images in arrival order is largely padding. The predictor batches what it gets in one
call by shape; it gets a window of several batches. Windows and batches depend on nothing but the
images, so that a repeated job predicts the same.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from model import Detections, Predictor
from pipeline.infer.inputs import InputImage, describe_error

DECODE_THREADS = 2
WINDOW_BATCHES = 8
MAX_WINDOW_BYTES = 256 << 20  # of pixels; large images make smaller windows

Decoded = np.ndarray | str
"""(H, W, 3) uint8 RGB, or the reason why the image could not be decoded."""


@dataclass(frozen=True)
class ImagePrediction:
    """The detections of one image, or the reason why there are none.

    Args:
        image: the image that was read, with its encoded bytes.
        detections: in the image's own pixels; None if there is an ``error``.
        error: why the image could not be read or decoded.
    """

    image: InputImage
    detections: Detections | None
    error: str | None = None


def predict_images(
    predictor: Predictor, images: Iterable[InputImage], batch: int
) -> Iterator[ImagePrediction]:
    """Run a detector over a stream of images.

    Args:
        predictor: on any device.
        images: encoded images; an image with ``error`` is not predicted on.
        batch: images per forward pass.

    Yields:
        One prediction per image, in order.
    """
    for window in _decoded_windows(images, batch):
        decoded = [pixels for _, pixels in window if isinstance(pixels, np.ndarray)]
        detections = iter(predictor.predict(decoded, batch_size=batch))
        for image, pixels in window:
            if isinstance(pixels, str):
                yield ImagePrediction(image, None, error=pixels)
            else:
                yield ImagePrediction(image, next(detections))


def _decoded_windows(
    images: Iterable[InputImage], batch: int
) -> Iterator[list[tuple[InputImage, Decoded]]]:
    """Yield windows of whole batches, in order; the last may be shorter."""
    window: list[tuple[InputImage, Decoded]] = []
    window_bytes = 0
    for image, pixels in _decode_ahead(images, batch):
        window.append((image, pixels))
        window_bytes += _pixel_bytes(pixels)
        is_full = len(window) == WINDOW_BATCHES * batch or window_bytes >= MAX_WINDOW_BYTES
        if is_full and len(window) % batch == 0:
            yield window
            window, window_bytes = [], 0
    if window:
        yield window


def _decode_ahead(images: Iterable[InputImage], batch: int) -> Iterator[tuple[InputImage, Decoded]]:
    """Yield decoded images in order; threads decode the next window while the caller uses one."""
    waiting: deque[tuple[InputImage, Future[Decoded]]] = deque()
    largest = 0
    with ThreadPoolExecutor(DECODE_THREADS, "decode") as pool:
        for image in images:
            waiting.append((image, pool.submit(_decode, image)))
            # One batch until a size is known, then as many as fit a window.
            fitting = MAX_WINDOW_BYTES // largest if largest else 0
            while len(waiting) > min(max(batch, fitting), WINDOW_BATCHES * batch):
                first, pixels = _pop_decoded(waiting)
                largest = max(largest, _pixel_bytes(pixels))
                yield first, pixels
        while waiting:
            yield _pop_decoded(waiting)


def _pop_decoded(
    waiting: deque[tuple[InputImage, Future[Decoded]]],
) -> tuple[InputImage, Decoded]:
    image, decoded = waiting.popleft()
    return image, decoded.result()


def _pixel_bytes(decoded: Decoded) -> int:
    return decoded.nbytes if isinstance(decoded, np.ndarray) else 0


def _decode(image: InputImage) -> Decoded:
    if image.error is not None:
        return image.error
    try:
        return image.decode()
    except Exception as error:  # decoders raise errors of many types
        return f"cannot be decoded ({describe_error(error)})"
