"""Test-time augmentation: detect in several sizes of an image, plain and flipped, and merge.

Shapes as in ``model.structures``; N candidate boxes of the image; V images of a view, 1 or 2.
Source: Detectron's test-time augmentation: boxes are merged before NMS, masks and keypoint heatmaps
are averaged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.boxes.convention import BoxConvention
from model.boxes.operations import flip_boxes
from model.boxes.selection import Candidates, SelectedBoxes
from model.config import TestAugmentationConfig
from model.config.keypoint_names import flip_order
from model.detections import Detections
from model.detector import Detector
from model.preprocess import canvas_size, normalize_images, resized_size
from model.structures import ImageBatch, ImageSize


@dataclass(frozen=True)
class View:
    """An image in one size, alone or with its flipped copy as a batch of two.

    Args:
        original: size of the image.
        size: size of the view.
        flip: whether the batch has the flipped copy.
        convention: box convention of the detector.
    """

    original: ImageSize
    size: ImageSize
    flip: bool
    convention: BoxConvention

    def batch(self, detector: Detector, image: Tensor) -> ImageBatch:
        """Return the input of the detector.

        Args:
            detector: its settings say how to normalize and pad.
            image: (h, w, 3) uint8 RGB, on the detector's device.
        """
        images = [image, image.flip(1)] if self.flip else [image]
        sizes = (self.size,) * len(images)
        canvas = canvas_size(sizes, detector.config.input.size_divisor)
        pixels = normalize_images(images, sizes, canvas, detector.config.conventions)
        return ImageBatch(pixels, sizes, (self.original,) * len(images))

    def to_image(self, candidates: Candidates) -> Candidates:
        """Return candidates of both images of the view in pixels of the original image."""
        # Boxes that end on their last pixel do not scale symmetrically, so the flip comes last.
        boxes = self.convention.scale(candidates.boxes, self.size, self.original)
        if self.flip:
            is_flipped = candidates.images[:, None] == 1
            boxes = torch.where(is_flipped, flip_boxes(boxes, self.original), boxes)
        return candidates._replace(boxes=boxes, images=torch.zeros_like(candidates.images))

    def from_image(self, selected: SelectedBoxes) -> SelectedBoxes:
        """Return D boxes of the original image as D boxes of each image of the view."""
        boxes = selected.boxes
        per_image = [boxes, flip_boxes(boxes, self.original)] if self.flip else [boxes]
        scaled = [self.convention.scale(each, self.original, self.size) for each in per_image]
        rois = [torch.cat((torch.full_like(b[:, :1], i), b), 1) for i, b in enumerate(scaled)]
        return replace(
            selected,
            rois=torch.cat(rois),
            scores=selected.scores.repeat(len(scaled)),
            labels=selected.labels.repeat(len(scaled)),
            counts=selected.counts * len(scaled),
        )

    def average_masks(self, masks: Tensor | None) -> Tensor | None:
        """Average masks (V * D, M, M) over the images of the view to (D, M, M)."""
        if masks is None or not self.flip:
            return masks
        plain, flipped = masks.chunk(2)
        return (plain + flipped.flip(-1)) / 2

    def average_heatmaps(self, heatmaps: Tensor | None, names: Sequence[str]) -> Tensor | None:
        """Average heatmaps (V * D, P, M, M) over the images of the view to (D, P, M, M).

        Args:
            heatmaps: in the order of ``names``.
            names: names of the P keypoints; a flip swaps left and right.
        """
        if heatmaps is None or not self.flip:
            return heatmaps
        plain, flipped = heatmaps.chunk(2)
        return (plain + flipped[:, list(flip_order(names))].flip(-1)) / 2


def detect_in_views(
    detector: Detector, image: Tensor, settings: TestAugmentationConfig
) -> Detections:
    """Detect the objects of an image in several sizes, plain and flipped.

    Candidates of all views go through NMS together. Every view then predicts masks and keypoint
    heatmaps for the selected boxes, and these are averaged. Sizes that the maximum long side makes
    equal are computed once.

    Args:
        detector: in eval mode.
        image: (h, w, 3) uint8 RGB, on the detector's device.
        settings: the views.
    """
    original = ImageSize(*image.shape[:2])
    rounding = detector.config.conventions.resize_rounding
    sizes = [
        resized_size(original, side, settings.long_side, rounding) for side in settings.short_sides
    ]
    views = [
        View(original, size, settings.flip, detector.box_convention)
        for size in dict.fromkeys(sizes)
    ]
    candidates, features = zip(*(_detect_in_view(detector, image, v) for v in views), strict=True)
    merged = Candidates(*(torch.cat(field) for field in zip(*candidates, strict=True)))
    whole_image = ImageBatch(image.permute(2, 0, 1)[None], (original,), (original,))
    selected = detector.select(merged, whole_image)
    names = detector.config.keypoint.names if detector.config.keypoint else ()
    masks = _mean(
        view.average_masks(detector.masks(maps, view.from_image(selected)))
        for view, maps in zip(views, features, strict=True)
    )
    heatmaps = _mean(
        view.average_heatmaps(detector.heatmaps(maps, view.from_image(selected)), names)
        for view, maps in zip(views, features, strict=True)
    )
    (detections,) = detector.to_detections(selected, whole_image, masks, heatmaps)
    return detections


def _detect_in_view(
    detector: Detector, image: Tensor, view: View
) -> tuple[Candidates, list[Tensor]]:
    """Return the candidates of a view, and its feature maps if a head will read them again."""
    images = view.batch(detector, image)
    features = detector.features(images)
    candidates = view.to_image(detector.candidates(features, images))
    read_again = detector.config.mask is not None or detector.config.keypoint is not None
    return candidates, features if read_again else []


def _mean(parts: Iterable[Tensor | None]) -> Tensor | None:
    """Return the mean of tensors of one shape; None if there are none.

    Summed one by one, so that only two are in memory at a time.
    """
    total, count = None, 0
    for part in parts:
        if part is not None:
            total = part if total is None else part + total
            count += 1
    return None if total is None else total / count
