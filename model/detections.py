"""The detections of one image. Shapes as in ``model.structures``."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.boxes.convention import CONTINUOUS, BoxConvention, MaskPaste
from model.boxes.operations import scale_points
from model.boxes.selection import SelectedBoxes
from model.structures import ImageBatch, ImageSize, MaskRuns
from ops_cuda import compress_rle, encode_roi_masks_rle, paste_masks


@dataclass(frozen=True)
class BitmapCrop:
    """The part of a bitmap around an object.

    Args:
        bitmap: (h, w) uint8 of 0 and 1; everything outside it is 0.
        corner: x, y of its upper left pixel in the image.
    """

    bitmap: Tensor
    corner: tuple[int, int]


@dataclass(frozen=True)
class Detections:
    """The D detected objects of one image in its original pixels, highest score first.

    Args:
        boxes: (D, 4) float32, x1 y1 x2 y2.
        scores: (D,) float32 in [0, 1].
        labels: (D,) int64, 1..K.
        masks: (D, M, M) float32, probability inside the box, or runs of pixels of the image where
            masks of several tiles were joined; None without a mask head.
        image_size: height and width of the original image.
        mask_threshold: probability above which a pixel belongs to the object.
        keypoints: (D, P, 3) float32: x, y, and a score (a logit, higher is more certain); None
            without a keypoint head. In continuous coordinates: the center of the upper left pixel
            is (0.5, 0.5), where torchvision returns (0, 0).
        mask_paste: how masks are pasted into the image. "padded" adds a border of zeros to the mask
            and resizes it to whole pixels, as in torchvision; "inclusive" does the same for boxes
            that end on their last pixel, as in maskrcnn-benchmark; "grid" samples the mask at pixel
            centers, as in detectron2.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | MaskRuns | None
    image_size: ImageSize
    mask_threshold: float = 0.5
    keypoints: Tensor | None = None
    mask_paste: MaskPaste = "padded"

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, selected: Tensor) -> "Detections":
        """Return the detections that an index or bool tensor selects."""
        return replace(
            self,
            boxes=self.boxes[selected],
            scores=self.scores[selected],
            labels=self.labels[selected],
            masks=None if self.masks is None else self.masks[selected],
            keypoints=None if self.keypoints is None else self.keypoints[selected],
        )

    def above(self, score: float) -> "Detections":
        """Return the detections with at least this score."""
        return self[self.scores >= score]

    def to(self, device: torch.device | str) -> "Detections":
        """Return the detections on ``device``."""
        return replace(
            self,
            boxes=self.boxes.to(device),
            scores=self.scores.to(device),
            labels=self.labels.to(device),
            masks=None if self.masks is None else self.masks.to(device),
            keypoints=None if self.keypoints is None else self.keypoints.to(device),
        )

    def bitmaps(self) -> Tensor:
        """Return the masks pasted into the image: (D, H, W) uint8 of 0 and 1.

        Raises:
            ValueError: the detector has no mask head.
        """
        if not isinstance(self.masks, MaskRuns):
            return paste_masks(*self._paste_arguments())
        bitmaps = torch.zeros(
            len(self), *self.image_size, dtype=torch.uint8, device=self.boxes.device
        )
        for whole, crop in zip(bitmaps, self.bitmap_crops(), strict=True):
            (x, y), (height, width) = crop.corner, crop.bitmap.shape
            whole[y : y + height, x : x + width] = crop.bitmap
        return bitmaps

    def bitmap_crops(self) -> list[BitmapCrop]:
        """Return the D masks as `bitmaps` pastes them, but each cut out around its object.

        For large images: D bitmaps of H x W pixels may not fit into memory.

        Raises:
            ValueError: the detector has no mask head.
        """
        if isinstance(self.masks, MaskRuns):
            return [BitmapCrop(*self.masks.bitmap(index)) for index in range(len(self))]
        masks, boxes, height, width, threshold, grid = self._paste_arguments()
        # Pasting grows a box by 2 / M of its size, and rounds.
        margin = (boxes[:, 2:] - boxes[:, :2]).abs() / masks.shape[-1] + 2
        limits = torch.tensor([width, height], device=boxes.device)
        starts = (boxes[:, :2] - margin).floor().clamp(min=0).minimum(limits - 1)
        ends = (boxes[:, 2:] + margin).ceil().minimum(limits).maximum(starts + 1)
        crops = []
        for mask, box, start, end in zip(masks, boxes, starts, ends, strict=True):
            x, y = (int(side) for side in start.tolist())
            w, h = (int(side) for side in (end - start).tolist())
            shifted = (box - start.repeat(2))[None]
            [bitmap] = paste_masks(mask[None], shifted, h, w, threshold, grid)
            crops.append(BitmapCrop(bitmap, (x, y)))
        return crops

    def rle(self) -> list[dict[str, object]]:
        """Return the masks in COCO's run-length encoding: ``{"size": [h, w], "counts": str}``.

        Identical to ``pycocotools.mask.encode`` of :meth:`bitmaps`, but without making bitmaps.

        Raises:
            ValueError: the detector has no mask head.
        """
        if isinstance(self.masks, MaskRuns):
            characters, offsets = compress_rle(*self.masks.run_lengths(*self.image_size))
        else:
            characters, offsets = compress_rle(*encode_roi_masks_rle(*self._paste_arguments()))
        text = characters.numpy().tobytes().decode("ascii")
        size = list(self.image_size)
        return [
            {"size": size.copy(), "counts": text[start:end]}
            for start, end in itertools.pairwise(offsets.tolist())
        ]

    def with_mask_runs(self) -> "Detections":
        """Return the detections with their masks, if any, as runs of pixels of the image."""
        if self.masks is None or isinstance(self.masks, MaskRuns):
            return self
        counts, offsets = encode_roi_masks_rle(*self._paste_arguments())
        runs = MaskRuns.from_run_lengths(counts, offsets, self.image_size.height)
        return replace(self, masks=runs)

    def _paste_arguments(self) -> tuple[Tensor, Tensor, int, int, float, bool]:
        """Return masks, boxes, height, width, threshold, and whether to sample on a grid."""
        if not isinstance(self.masks, Tensor):
            raise ValueError("these detections have no masks: the detector has no mask head")
        boxes = BoxConvention(self.mask_paste == "inclusive").source_boxes(self.boxes)
        grid = self.mask_paste == "grid"
        return self.masks, boxes, *self.image_size, self.mask_threshold, grid


def detections_per_image(
    selected: SelectedBoxes,
    images: ImageBatch,
    masks: Tensor | None = None,
    mask_threshold: float = 0.5,
    keypoints: Tensor | None = None,
    convention: BoxConvention = CONTINUOUS,
    mask_paste: MaskPaste = "padded",
) -> list[Detections]:
    """Split the selected boxes of a batch by image and scale them to the original sizes.

    Args:
        selected: D boxes in pixels of the padded batch.
        images: the batch.
        masks: (D, M, M) float32 in [0, 1], or None.
        mask_threshold: probability above which a pixel belongs to the object.
        keypoints: (D, P, 3) float32: x, y in pixels of the padded batch, score; or None.
        convention: box convention of the detector.
        mask_paste: how masks are pasted into the image.
    """
    none: Sequence[Tensor | None] = [None] * len(images)
    return [
        Detections(
            boxes=convention.scale(boxes, size, original),
            scores=scores,
            labels=labels,
            masks=mask,
            image_size=original,
            mask_threshold=mask_threshold,
            keypoints=None if points is None else _scale_keypoints(points, size, original),
            mask_paste=mask_paste,
        )
        for boxes, scores, labels, mask, points, size, original in zip(
            torch.split(selected.boxes, selected.counts),
            torch.split(selected.scores, selected.counts),
            torch.split(selected.labels, selected.counts),
            none if masks is None else torch.split(masks, selected.counts),
            none if keypoints is None else torch.split(keypoints, selected.counts),
            images.sizes,
            images.original_sizes,
            strict=True,
        )
    ]


def _scale_keypoints(keypoints: Tensor, old: ImageSize, new: ImageSize) -> Tensor:
    """Scale keypoints (N, P, 3) of an image resized from ``old`` to ``new``; scores stay."""
    return torch.cat((scale_points(keypoints[..., :2], old, new), keypoints[..., 2:]), dim=-1)
