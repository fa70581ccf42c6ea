"""Pictures of any sizes through a detector.

Shapes: h w of one picture.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.detections import Detections
from model.inference.test_time_augmentation import detect_in_views
from model.preprocess import canvas_size, resized_size
from model.structures import ImageBatch, ImageSize

if TYPE_CHECKING:
    # the detector predicts with this file
    from model.detector import Detector


@torch.inference_mode()
def predict(
    detector: "Detector", images: Sequence[npt.NDArray[np.uint8]], batch_size: int = 4
) -> list[Detections]:
    """Find the objects in pictures; see ``Detector.predict``.

    The detector's mode is left as it was.
    """
    for index, image in enumerate(images):
        check_picture(index, image)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    augmentation = detector.config.test_augmentation
    training = detector.training
    detector.eval()
    try:
        if augmentation is None:
            return _predict_in_batches(detector, images, batch_size)
        return [
            detect_in_views(detector, picture_on(detector.device, image), augmentation).to("cpu")
            for image in images
        ]
    finally:
        detector.train(training)


def _predict_in_batches(
    detector: "Detector", images: Sequence[npt.NDArray[np.uint8]], batch_size: int
) -> list[Detections]:
    """Pictures of like shapes share a batch, so that little of it is padding."""
    rule = detector.config.input
    originals = [ImageSize(*image.shape[:2]) for image in images]
    rounding = detector.config.conventions.resize_rounding
    sizes = [resized_size(size, rule.short_side, rule.long_side, rounding) for size in originals]
    order = sorted(range(len(images)), key=lambda index: sizes[index])
    found: dict[int, Detections] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        wanted = tuple(sizes[i] for i in chosen)
        pixels = detector.normalise(
            [picture_on(detector.device, images[i]) for i in chosen],
            wanted,
            canvas_size(wanted, rule.size_divisor),
        )
        detections = detector(ImageBatch(pixels, wanted, tuple(originals[i] for i in chosen)))
        found.update(zip(chosen, (d.to("cpu") for d in detections), strict=True))
    return [found[index] for index in range(len(images))]


def picture_on(device: torch.device, image: npt.NDArray[np.uint8]) -> Tensor:
    """A picture (h, w, 3) uint8 on ``device``."""
    # torch wants arrays of its own order that it may write to, though nothing is written here
    pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))
    if device.type == "cuda":
        # only from pinned memory does the copy go on while the next picture is pinned
        return pixels.pin_memory().to(device, non_blocking=True)
    return pixels.to(device)


def check_picture(index: int, image: object) -> None:
    """Refuse what is no picture.

    Raises:
        TypeError: it is no uint8 array.
        ValueError: it has another shape than (h, w, 3), or no pixels.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image {index} must be a uint8 numpy array; got {got}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image {index} must be (height, width, 3) RGB; got {image.shape}")
