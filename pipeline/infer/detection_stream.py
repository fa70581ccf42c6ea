"""Predict on a stream of encoded images: decode ahead, batch by shape, report unreadable images.

A batch of images in arrival order is largely padding. The predictor batches what it gets in one
call by shape; it gets a window of several batches. Windows and batches depend on nothing but the
images, so that a repeated job predicts the same.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from model import Detections, Predictor
from model.images.decode import Pixels
from pipeline.infer.input_image import describe_error

DECODE_THREADS = 2
WINDOW_BATCHES = 8
MAX_WINDOW_BYTES = 256 << 20  # of pixels; large images make smaller windows

Decoded = np.ndarray | str
"""(H, W, 3) uint8 RGB, or the reason why the image could not be decoded."""


class EncodedImage(Protocol):
    """An image that can be decoded in a thread."""

    @property
    def error(self) -> str | None:
        """Why the image could not be read; it is not decoded then."""

    def decode(self) -> Pixels:
        """Return (H, W, 3) uint8 RGB, or raise if the image is damaged."""


ImageT = TypeVar("ImageT", bound=EncodedImage)


@dataclass(frozen=True)
class ImagePrediction(Generic[ImageT]):
    """The detections of one image, or the reason why there are none.

    Args:
        image: the image that was read.
        detections: in the image's own pixels; None if there is an ``error``.
        error: why the image could not be read or decoded.
        pixels: (H, W, 3) uint8 RGB; None if there is an ``error``.
    """

    image: ImageT
    detections: Detections | None
    error: str | None = None
    pixels: Pixels | None = None


def predict_images(
    predictor: Predictor,
    images: Iterable[ImageT],
    batch: int,
    window_batches: int = WINDOW_BATCHES,
    ahead: int | None = None,
) -> Iterator[ImagePrediction[ImageT]]:
    """Run a detector over a stream of images.

    Args:
        predictor: on any device.
        images: encoded images; an image with ``error`` is not predicted on.
        batch: images per forward pass.
        window_batches: batches that the predictor gets in one call; few give first results early.
        ahead: images to decode ahead; default: those of a window of `WINDOW_BATCHES`. 0 for a live
            source, whose images would be old by the time they are predicted on.

    Yields:
        One prediction per image, in order.
    """
    for window in _decoded_windows(images, batch, window_batches, ahead):
        decoded = [pixels for _, pixels in window if isinstance(pixels, np.ndarray)]
        detections = iter(predictor.predict(decoded, batch_size=batch))
        for image, pixels in window:
            if isinstance(pixels, str):
                yield ImagePrediction(image, None, error=pixels)
            else:
                yield ImagePrediction(image, next(detections), pixels=pixels)


def _decoded_windows(
    images: Iterable[ImageT], batch: int, window_batches: int, ahead: int | None
) -> Iterator[list[tuple[ImageT, Decoded]]]:
    """Yield windows of whole batches, in order; the last may be shorter."""
    window: list[tuple[ImageT, Decoded]] = []
    window_bytes = 0
    limit = WINDOW_BATCHES * batch if ahead is None else ahead
    for image, pixels in _decode_ahead(images, batch, limit):
        window.append((image, pixels))
        window_bytes += _pixel_bytes(pixels)
        is_full = len(window) == window_batches * batch or window_bytes >= MAX_WINDOW_BYTES
        if is_full and len(window) % batch == 0:
            yield window
            window, window_bytes = [], 0
    if window:
        yield window


def _decode_ahead(
    images: Iterable[ImageT], batch: int, limit: int
) -> Iterator[tuple[ImageT, Decoded]]:
    """Yield decoded images in order; threads decode the next window while the caller uses one."""
    waiting: deque[tuple[ImageT, Future[Decoded]]] = deque()
    largest = 0
    with ThreadPoolExecutor(DECODE_THREADS, "decode") as pool:
        for image in images:
            waiting.append((image, pool.submit(_decode, image)))
            # One batch until a size is known, then as many as fit a window.
            fitting = MAX_WINDOW_BYTES // largest if largest else 0
            while len(waiting) > min(max(batch, fitting), limit):
                first, pixels = _pop_decoded(waiting)
                largest = max(largest, _pixel_bytes(pixels))
                yield first, pixels
        while waiting:
            yield _pop_decoded(waiting)


def _pop_decoded(
    waiting: deque[tuple[ImageT, Future[Decoded]]],
) -> tuple[ImageT, Decoded]:
    image, decoded = waiting.popleft()
    return image, decoded.result()


def _pixel_bytes(decoded: Decoded) -> int:
    return decoded.nbytes if isinstance(decoded, np.ndarray) else 0


def _decode(image: EncodedImage) -> Decoded:
    if image.error is not None:
        return image.error
    try:
        return image.decode()
    except Exception as error:  # decoders raise errors of many types
        return f"cannot be decoded ({describe_error(error)})"
