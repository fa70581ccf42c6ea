"""From images of any size to detections, and from weights to a predictor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.config import ModelConfig
from model.config.settings import Precision
from model.detections import Detections
from model.detector import Detector
from model.inference.precision import autocast, check_precision
from model.inference.test_time_augmentation import detect_in_views
from model.preprocess import canvas_size, normalize_images, resized_size
from model.structures import Category, ImageBatch, ImageSize
from model.weights.load import load_network
from model.weights.load_arguments import check_device

Image = npt.NDArray[np.uint8]
"""(h, w, 3) uint8 RGB."""


class Predictor:
    """A detector that takes images of any size, resizes, batches and detects.

    Args:
        detector: the network. It is switched to eval mode while it predicts.
        precision: fp32, or bf16 or fp16 for autocast, which is faster on GPUs.

    Raises:
        ValueError: the device of the detector cannot compute in this precision.
    """

    def __init__(self, detector: Detector, precision: Precision = "fp32") -> None:
        check_precision(precision, detector.device)
        self.detector = detector
        self.precision: Precision = precision

    @property
    def config(self) -> ModelConfig:
        """Settings of the detector."""
        return self.detector.config

    @property
    def categories(self) -> tuple[Category, ...]:
        """The K classes; label i is ``categories[i - 1]``."""
        return self.detector.categories

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.detector.device

    def to(self, device: str | torch.device) -> "Predictor":
        """Move the weights to ``device``; returns the predictor itself."""
        device = check_device(device)
        check_precision(self.precision, device)
        self.detector.to(device)
        return self

    @torch.inference_mode()
    def predict(self, images: Sequence[Image], batch_size: int = 4) -> list[Detections]:
        """Detect objects.

        Args:
            images: (h, w, 3) uint8 RGB arrays of any sizes.
            batch_size: images per forward pass. With test-time augmentation a pass contains one
                image in one size, plain and flipped, whatever the batch size.

        Returns:
            Detections of each image in its original pixels, on the CPU.

        Raises:
            TypeError: the images are not a list, an image is not a uint8 array, or the batch size
                is not an integer.
            ValueError: an image has another shape, or the batch size is not positive.
        """
        check_images(images)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int):
            raise TypeError(f"batch_size must be an integer; got {batch_size!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        augmentation = self.config.test_augmentation
        training = self.detector.training
        self.detector.eval()
        try:
            with autocast(self.precision, self.device):
                if augmentation is None:
                    return self._predict_in_batches(images, batch_size)
                return [
                    detect_in_views(self.detector, self._upload(image), augmentation).to("cpu")
                    for image in images
                ]
        finally:
            self.detector.train(training)

    def _predict_in_batches(self, images: Sequence[Image], batch_size: int) -> list[Detections]:
        """Predict in batches of images of similar shape, so that little of a batch is padding."""
        settings, conventions = self.config.input, self.config.conventions
        originals = [ImageSize(*image.shape[:2]) for image in images]
        sizes = [
            resized_size(size, settings.short_side, settings.long_side, conventions.resize_rounding)
            for size in originals
        ]
        by_shape = sorted(range(len(images)), key=lambda index: sizes[index])
        results: dict[int, Detections] = {}
        for start in range(0, len(images), batch_size):
            batch = by_shape[start : start + batch_size]
            batch_sizes = tuple(sizes[index] for index in batch)
            pixels = normalize_images(
                [self._upload(images[index]) for index in batch],
                batch_sizes,
                canvas_size(batch_sizes, settings.size_divisor),
                conventions,
            )
            original_sizes = tuple(originals[index] for index in batch)
            detections = self.detector(ImageBatch(pixels, batch_sizes, original_sizes))
            results.update(zip(batch, (d.to("cpu") for d in detections), strict=True))
        return [results[index] for index in range(len(images))]

    def _upload(self, image: Image) -> Tensor:
        """Return an image (h, w, 3) uint8 on the device."""
        # torch needs a writable array in C order, although nothing is written here.
        pixels = torch.from_numpy(np.require(image, requirements=["C", "W"]))
        if self.device.type == "cuda":
            # Only a copy from pinned memory overlaps with pinning the next image.
            return pixels.pin_memory().to(self.device, non_blocking=True)
        return pixels.to(self.device)


def load_detector(
    source: str | Path,
    config: str | Path | ModelConfig | None = None,
    device: str | torch.device = "cpu",
    *,
    precision: Precision = "fp32",
    allow_missing: Sequence[str] = (),
    allow_unused: Sequence[str] = (),
    conventions: Mapping[str, Any] | None = None,
    **overrides: float,
) -> Predictor:
    """Load a trained detector, ready to predict.

    The arguments and errors are those of :func:`model.weights.load_network`, which returns the
    network itself, and ``precision`` of :class:`Predictor`.
    """
    check_precision(precision, torch.device(check_device(device)))
    network = load_network(
        source,
        config,
        device,
        allow_missing=allow_missing,
        allow_unused=allow_unused,
        conventions=conventions,
        **overrides,
    )
    return Predictor(network, precision)


def check_images(images: object) -> None:
    """Raise unless ``images`` is a sequence of RGB images as arrays.

    Raises:
        TypeError: it is not a sequence, or an image is not a uint8 array.
        ValueError: an image has another shape than (h, w, 3), or no pixels.
    """
    if isinstance(images, np.ndarray) and images.ndim == 3:
        raise TypeError("predict takes a list of images; got a single array: predict([image])")
    if not isinstance(images, Sequence | np.ndarray) or isinstance(images, str | bytes):
        raise TypeError(
            "predict takes a list of (height, width, 3) uint8 arrays; "
            f"got a value of type {type(images).__name__}"
        )
    for index, image in enumerate(images):
        check_image(index, image)


def check_image(index: int, image: object) -> None:
    """Raise unless ``image`` is an RGB image as an array.

    Raises:
        TypeError: it is not a uint8 array.
        ValueError: its shape is not (h, w, 3), or it has no pixels.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"image {index} must be a uint8 numpy array; got {got}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"image {index} must be (height, width, 3) RGB with at least one pixel; "
            f"got {image.shape}"
        )
