"""One picture in several sizes and mirrored; what they show is joined.

Shapes: V images of a batch (the picture in one size, and mirrored), N candidates and D detections
of the picture, P keypoints of an object, M side of a mask or a heatmap.
Source: Detectron's test-time augmentation: boxes joined before suppression, masks and heatmaps
averaged.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model.boxes.convention import BoxGeometry
from model.boxes.operations import mirror_boxes
from model.boxes.selection import (
    Candidates,
    SelectedBoxes,
    keep_best_boxes,
    proposals_as_boxes,
)
from model.config import ModelConfig, TestAugmentationConfig
from model.config.keypoint_names import flip_order
from model.detections import Detections
from model.heads.roi_heads import RoiHeads
from model.preprocess import canvas_size, resized_size
from model.structures import ImageBatch, ImageSize

if TYPE_CHECKING:
    # the detector predicts with this file
    from model.detector import Detector


@dataclass(frozen=True)
class View:
    """A picture in one size, alone or with its mirror image.

    Args:
        original: size of the picture.
        size: of the view.
        flip: whether a second image of the batch is the mirror image.
        geometry: of the boxes.
    """

    original: ImageSize
    size: ImageSize
    flip: bool
    geometry: BoxGeometry

    def batch(self, detector: "Detector", picture: Tensor) -> ImageBatch:
        """What the detector sees.

        Args:
            detector: normalises.
            picture: (h, w, 3) uint8 RGB, on the detector's device.
        """
        pictures = [picture, picture.flip(1)] if self.flip else [picture]
        sizes = (self.size,) * len(pictures)
        canvas = canvas_size(sizes, detector.config.input.size_divisor)
        pixels = detector.normalise(pictures, sizes, canvas)
        return ImageBatch(pixels, sizes, (self.original,) * len(pictures))

    def to_picture(self, found: Candidates) -> Candidates:
        """Candidates of both images in the pixels of the picture."""
        # Boxes that end on their last pixel are scaled askew: then mirroring comes last.
        boxes = self.geometry.scale(found.boxes, self.size, self.original)
        if self.flip:
            is_mirrored = found.images[:, None] == 1
            boxes = torch.where(is_mirrored, mirror_boxes(boxes, self.original), boxes)
        return found._replace(boxes=boxes, images=torch.zeros_like(found.images))

    def from_picture(self, found: SelectedBoxes) -> SelectedBoxes:
        """D boxes of the picture as D boxes of each image of the batch."""
        boxes = found.rois[:, 1:]
        every = [boxes, mirror_boxes(boxes, self.original)] if self.flip else [boxes]
        shown = [self.geometry.scale(each, self.original, self.size) for each in every]
        rois = [torch.cat((torch.full_like(b[:, :1], i), b), 1) for i, b in enumerate(shown)]
        return replace(
            found,
            rois=torch.cat(rois),
            scores=found.scores.repeat(len(shown)),
            labels=found.labels.repeat(len(shown)),
            counts=found.counts * len(shown),
        )

    def mean_masks(self, masks: Tensor) -> Tensor:
        """Masks (V * D, M, M) of both images as (D, M, M) of the picture."""
        if not self.flip:
            return masks
        plain, mirrored = masks.chunk(2)
        return (plain + mirrored.flip(-1)) / 2

    def mean_heatmaps(self, heatmaps: Tensor, names: Sequence[str]) -> Tensor:
        """Heatmaps (V * D, P, M, M) of both images as (D, P, M, M) of the picture.

        Args:
            heatmaps: in the order of ``names``.
            names: of the P keypoints; what the mirror image shows on the left is on the right.
        """
        if not self.flip:
            return heatmaps
        plain, mirrored = heatmaps.chunk(2)
        return (plain + mirrored[:, list(flip_order(names))].flip(-1)) / 2


def detect_in_views(
    detector: "Detector", picture: Tensor, settings: TestAugmentationConfig
) -> Detections:
    """The objects of a picture, looked at in several sizes and mirrored.

    The confident boxes of all views are suppressed together, as if one view had found them; each
    view then says what it sees in those that stay. Of a proposal network alone the proposals
    compete, over all levels at once, with the thresholds of a level. Sizes that the long side's
    limit makes equal are looked at once.

    Args:
        detector: in eval mode.
        picture: (h, w, 3) uint8 RGB, on its device.
        settings: the views.
    """
    original = ImageSize(*picture.shape[:2])
    geometry, rounding = detector.geometry, detector.config.conventions.resize_rounding
    sizes = [
        resized_size(original, side, settings.long_side, rounding) for side in settings.short_sides
    ]
    views = [View(original, size, settings.flip, geometry) for size in dict.fromkeys(sizes)]
    looked_at = [_look(detector, picture, view) for view in views]
    joined = Candidates(*(torch.cat(p) for p in zip(*(c for c, _ in looked_at), strict=True)))
    found = keep_best_boxes(*joined, [original], *_limits(detector.config), geometry)
    masks = keypoints = None
    heads, head = detector.roi_heads, detector.config.keypoint
    if heads is not None:
        seen = [(view, maps) for view, (_, maps) in zip(views, looked_at, strict=True)]
        masks = _masks(heads, seen, found)
        keypoints = _keypoints(heads, seen, found, head.names if head else ())
    itself = ImageBatch(picture.permute(2, 0, 1)[None], (original,), (original,))
    (detections,) = detector.describe(found, itself, masks, keypoints)
    return detections


def _look(detector: "Detector", picture: Tensor, view: View) -> tuple[Candidates, list[Tensor]]:
    """What a view shows, and its maps if masks or keypoints will be read from them."""
    images = view.batch(detector, picture)
    features = detector.features(images)
    if detector.retinanet is not None:
        return view.to_picture(detector.retinanet.candidates(features, images)), []
    proposals, _ = detector.rpn(features, images)
    heads = detector.roi_heads
    if heads is None:
        boxes = proposals_as_boxes(proposals)
        rois = boxes.rois
        found = Candidates(rois[:, 1:], boxes.scores, rois[:, 0].long(), boxes.labels)
        return view.to_picture(found), []
    found = heads.candidates(features, proposals)
    is_read_again = heads.mask is not None or heads.keypoint is not None
    return view.to_picture(found), features if is_read_again else []


def _limits(config: ModelConfig) -> tuple[float, int]:
    """Overlap at which the better box suppresses the other, and boxes kept at most."""
    settings = config.retinanet or config.box
    if settings is None:
        return config.rpn.nms_iou, config.rpn.post_nms_test
    return settings.nms_iou, settings.detections_per_image


def _masks(
    heads: RoiHeads, seen: Sequence[tuple[View, list[Tensor]]], found: SelectedBoxes
) -> Tensor | None:
    """The average masks (D, M, M) of all views; None without a mask head."""
    if heads.mask is None:
        return None
    every = ((view, heads.masks_of(maps, view.from_picture(found))) for view, maps in seen)
    return _mean(view.mean_masks(masks) for view, masks in every if masks is not None)


def _keypoints(
    heads: RoiHeads,
    seen: Sequence[tuple[View, list[Tensor]]],
    found: SelectedBoxes,
    names: Sequence[str],
) -> Tensor | None:
    """Keypoints (D, P, 3) in the picture's pixels, of the average heatmaps of all views."""
    if heads.keypoint is None:
        return None
    every = ((view, heads.heatmaps_of(maps, view.from_picture(found))) for view, maps in seen)
    heatmaps = _mean(view.mean_heatmaps(maps, names) for view, maps in every if maps is not None)
    return heads.keypoints_in(heatmaps, found.rois[:, 1:])


def _mean(parts: Iterable[Tensor]) -> Tensor:
    """The mean of tensors of one shape, of which few are in memory at a time."""
    total, count = torch.zeros(()), 0
    for part in parts:
        total = part + total if count else part
        count += 1
    return total / count
