"""From images of any size to detections, and from weights to a predictor."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from model.config import ModelConfig, TilesConfig
from model.config.keypoint_names import skeleton_of
from model.config.settings import Precision
from model.detections import Detections
from model.detector import Detector
from model.inference.input_image import Image, InputImage, is_single_image, open_images
from model.inference.precision import autocast, check_precision
from model.inference.test_time_augmentation import detect_in_views
from model.inference.tiles import detect_in_tiles, fits_into_one_tile
from model.preprocess import canvas_size, normalize_images, resized_size
from model.structures import Category, ImageBatch
from model.weights.load import load_network
from model.weights.load_arguments import check_device

if TYPE_CHECKING:
    from PIL import Image as PillowImage


class Predictor:
    """A detector that takes images of any size, resizes, batches and detects.

    Args:
        detector: the network. It is switched to eval mode while it predicts.
        precision: fp32, or bf16 or fp16 for autocast, which is faster on GPUs.
        tiles: detect in tiles of images that are larger than a tile; default: as the detector's
            config says.

    Raises:
        ValueError: the device of the detector cannot compute in this precision, or the proposals
            of a proposal network would be merged.
    """

    def __init__(
        self,
        detector: Detector,
        precision: Precision = "fp32",
        tiles: TilesConfig | None = None,
    ) -> None:
        check_precision(precision, detector.device)
        self.tiles = detector.config.tiles if tiles is None else tiles
        if self.tiles is not None:
            self.tiles.check_classes(not detector.config.is_proposal_network)
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
    def class_names(self) -> tuple[str, ...]:
        """The names of the K classes; the only class of a proposal network is "object"."""
        if self.config.is_proposal_network:
            return ("object",)
        return tuple(category.name for category in self.categories)

    @property
    def skeleton(self) -> tuple[tuple[int, int], ...]:
        """Links between the keypoints, as pairs of their indices; empty if they are not known."""
        return () if self.config.keypoint is None else skeleton_of(self.config.keypoint.names)

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

    def draw(
        self,
        image: Image,
        detections: Detections | None = None,
        *,
        min_score: float = 0.5,
        floats_are_0_to_1: bool = False,
    ) -> "PillowImage.Image":
        """Draw the objects of an image on a copy of it: masks, boxes, keypoints, names and scores.

        Args:
            image: as for `predict`.
            detections: those of the image; default: predict them.
            min_score: detections with a lower score are left out.
            floats_are_0_to_1: as for `predict`.

        Returns:
            An RGB image of the image's size; one with a short side below 320 pixels is enlarged by
            an integer, so that the labels are readable.

        Raises:
            ImportError: Pillow is not installed.
            ValueError: the detections are those of an image of another size.
        """
        if not is_single_image(image):
            raise TypeError(f"draw takes one image; got a value of type {type(image).__name__}")
        try:
            # Pillow is optional: detectors also run where there is none.
            from PIL import Image as pillow  # noqa: N813, PLC0415

            from model.drawing import detected_objects, draw_objects  # noqa: PLC0415
        except ImportError as error:
            raise ImportError("drawing needs Pillow: pip install pillow") from error
        [opened] = open_images(image, floats_are_0_to_1)
        if detections is None:
            detections = self.predict(image, floats_are_0_to_1=floats_are_0_to_1)
        if detections.image_size != opened.size:
            raise ValueError(
                f"the detections are those of an image of {detections.image_size}; got an image of "
                f"{opened.size}"
            )
        objects = detected_objects(detections.above(min_score), self.class_names, self.skeleton)
        return pillow.fromarray(draw_objects(opened.pixels().cpu().numpy(), objects))

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path is also a sequence of strings
        self, images: Image, batch_size: int = 4, *, floats_are_0_to_1: bool = False
    ) -> Detections: ...

    @overload
    def predict(
        self, images: Sequence[Image], batch_size: int = 4, *, floats_are_0_to_1: bool = False
    ) -> list[Detections]: ...

    @torch.inference_mode()
    def predict(
        self,
        images: Image | Sequence[Image],
        batch_size: int = 4,
        *,
        floats_are_0_to_1: bool = False,
    ) -> Detections | list[Detections]:
        """Detect objects.

        Args:
            images: one image or a list of images of any sizes, each of them

                - the path or the encoded bytes of an image file (JPEG, PNG, ...), or a PIL image,
                  turned upright as its EXIF data says;
                - an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), uint8: gray, RGB, or RGB with
                  alpha, which is dropped;
                - a tensor (1, h, w), (3, h, w) or (4, h, w), uint8, on any device.

                A batch of equal sizes, (n, h, w, c) array or (n, c, h, w) tensor, is a list.
            batch_size: images per forward pass; files are decoded when their batch is due. With
                test-time augmentation a pass contains one image in one size, plain and flipped,
                whatever the batch size. Of a large image in tiles, a pass contains as many tiles.
            floats_are_0_to_1: accept arrays and tensors of floats, in which 1.0 is white, as
                torchvision makes them. They must not be normalized.

        Returns:
            Detections of the image, or a list with those of each image, in the pixels of the
            original (upright) image, on the CPU.

        Raises:
            TypeError: an image has another type or dtype, or the batch size is not an integer.
            ValueError: an image has another shape, a file is damaged, or the batch size is not
                positive.
            FileNotFoundError: a path names no file.
            ImportError: a file is given, and Pillow or simplejpeg is not installed.
        """
        opened = open_images(images, floats_are_0_to_1)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int):
            raise TypeError(f"batch_size must be an integer; got {batch_size!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        training = self.detector.training
        self.detector.eval()
        try:
            with autocast(self.precision, self.device):
                detections = self._predict(opened, batch_size)
        finally:
            self.detector.train(training)
        return detections[0] if is_single_image(images) else detections

    def _predict(self, images: Sequence[InputImage], batch_size: int) -> list[Detections]:
        tiles = self.tiles
        if tiles is None:
            return self._predict_whole(images, batch_size)

        def predict(parts: Sequence[InputImage]) -> list[Detections]:
            return self._predict_whole(parts, batch_size)

        small = [image for image in images if fits_into_one_tile(image, tiles)]
        untiled = iter(predict(small))
        return [
            next(untiled)
            if fits_into_one_tile(image, tiles)
            else detect_in_tiles(predict, image, tiles, batch_size)
            for image in images
        ]

    def _predict_whole(self, images: Sequence[InputImage], batch_size: int) -> list[Detections]:
        augmentation = self.config.test_augmentation
        if augmentation is None:
            return self._predict_in_batches(images, batch_size)
        return [
            detect_in_views(self.detector, self._upload(image), augmentation).to("cpu")
            for image in images
        ]

    def _predict_in_batches(
        self, images: Sequence[InputImage], batch_size: int
    ) -> list[Detections]:
        """Predict in batches of images of similar shape, so that little of a batch is padding."""
        settings, conventions = self.config.input, self.config.conventions
        originals = [image.size for image in images]
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

    def _upload(self, image: InputImage) -> Tensor:
        """Return an image (h, w, 3) uint8 on the device."""
        pixels = image.pixels()
        if self.device.type == "cuda" and pixels.device.type == "cpu":
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
    tiles: TilesConfig | None = None,
    **overrides: float,
) -> Predictor:
    """Load a trained detector, ready to predict.

    The arguments and errors are those of :func:`model.weights.load_network`, which returns the
    network itself, and ``precision`` and ``tiles`` of :class:`Predictor`.
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
    return Predictor(network, precision, tiles)
