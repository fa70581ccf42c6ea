"""Predict on a stream of encoded images: decode ahead, batch, and report unreadable images."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from model import Detections, Predictor
from pipeline.infer.inputs import InputImage
from pipeline.shards.decode import decode_image

DECODE_THREADS = 2

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
    for group in _decoded_groups(images, batch):
        decoded = [pixels for _, pixels in group if isinstance(pixels, np.ndarray)]
        detections = iter(predictor.predict(decoded, batch_size=batch))
        for image, pixels in group:
            if isinstance(pixels, str):
                yield ImagePrediction(image, None, error=pixels)
            else:
                yield ImagePrediction(image, next(detections))


def _decoded_groups(
    images: Iterable[InputImage], batch: int
) -> Iterator[list[tuple[InputImage, Decoded]]]:
    """Yield groups of ``batch`` images; the next group is decoded while the caller uses one."""
    waiting: deque[tuple[InputImage, Future[Decoded]]] = deque()
    with ThreadPoolExecutor(DECODE_THREADS, "decode") as pool:
        for image in images:
            waiting.append((image, pool.submit(_decode, image)))
            if len(waiting) == 2 * batch:
                yield [_pop_decoded(waiting) for _ in range(batch)]
        while waiting:
            yield [_pop_decoded(waiting) for _ in range(min(batch, len(waiting)))]


def _pop_decoded(
    waiting: deque[tuple[InputImage, Future[Decoded]]],
) -> tuple[InputImage, Decoded]:
    image, decoded = waiting.popleft()
    return image, decoded.result()


def _decode(image: InputImage) -> Decoded:
    if image.error is not None:
        return image.error
    try:
        return decode_image(image.encoded)
    except Exception as error:  # decoders raise errors of many types
        return f"cannot be decoded ({type(error).__name__}: {error})"
