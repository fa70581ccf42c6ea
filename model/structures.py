"""The data that passes between the parts of the detector: frozen dataclasses of tensors.

Shapes: B images, N objects, R detections, M mask side, P polygons or proposals, V vertices,
H W pixels.
Labels: 0 is the background, 1..K the object classes, as in maskrcnn-benchmark and torchvision.
Boxes: absolute pixels, x1 y1 x2 y2, continuous coordinates (a box of one pixel has x2 - x1 = 1).
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor


class ImageSize(NamedTuple):
    """Height and width, pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class LossTerm:
    """A loss before normalisation, so that many workers can divide by their common count.

    ``total`` is a scalar tensor attached to the graph, ``count`` a scalar tensor without gradient.
    The loss of one process alone is ``total / max(count, 1)``.
    """

    total: Tensor
    count: Tensor


@dataclass(frozen=True)
class ImageBatch:
    """Images padded to one size.

    Args:
        pixels: (B, 3, H, W), content in the upper left corner: uint8 RGB, or floating point where
            the detector has normalised them already.
        sizes: size of each image's content inside the batch.
        original_sizes: size of each image before resizing; detections are given in it.
        sampling_seeds: one seed per image for the random choice of training samples, so that a
            loss does not depend on which worker holds the image.
    """

    pixels: Tensor
    sizes: tuple[ImageSize, ...]
    original_sizes: tuple[ImageSize, ...]
    sampling_seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[1] != 3:
            raise ValueError(f"pixels must be (B, 3, H, W); got {tuple(self.pixels.shape)}")
        if self.pixels.dtype != torch.uint8 and not self.pixels.is_floating_point():
            raise ValueError(f"pixels must be uint8, or normalised; got {self.pixels.dtype}")
        if not len(self.sizes) == len(self.original_sizes) == len(self.pixels):
            raise ValueError(
                f"{len(self.pixels)} images but {len(self.sizes)} sizes and "
                f"{len(self.original_sizes)} original sizes"
            )

    def __len__(self) -> int:
        return len(self.sizes)

    def pictures(self) -> list[Tensor]:
        """The contents without padding, (h, w, 3) each: views."""
        return [
            image[:, : size.height, : size.width].permute(1, 2, 0)
            for image, size in zip(self.pixels, self.sizes, strict=True)
        ]

    def to(self, device: torch.device, non_blocking: bool = False) -> "ImageBatch":
        """The same batch on ``device``."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=non_blocking))


@dataclass(frozen=True)
class PolygonMasks:
    """The outlines of N objects, flat: object n owns polygons ``object_offsets[n:n + 2]``.

    Args:
        vertices: (V, 2) float32, x y pixels.
        polygon_offsets: (P + 1,) int64 into vertices.
        object_offsets: (N + 1,) int64 into polygons.
    """

    vertices: Tensor
    polygon_offsets: Tensor
    object_offsets: Tensor

    def __len__(self) -> int:
        return len(self.object_offsets) - 1

    def to(self, device: torch.device, non_blocking: bool = False) -> "PolygonMasks":
        """The same masks on ``device``."""
        return PolygonMasks(
            self.vertices.to(device, non_blocking=non_blocking),
            self.polygon_offsets.to(device, non_blocking=non_blocking),
            self.object_offsets.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True)
class RunLengthMasks:
    """N masks as runs of zeros and ones in turn, zeros first, down the columns of a canvas.

    The canvas is the image as it was annotated: resizing and flipping the image changes only
    ``to_canvas``. An object without runs has no mask.

    Args:
        run_ends: (K,) int64, where each run ends, counted from the start of its canvas.
        run_offsets: (N + 1,) int64 into run_ends.
        heights: (N,) int64, rows of each canvas.
        to_canvas: (N, 4) float32, scale of x and y, shift of x and y: canvas = scale * image +
            shift, pixels. Where the image is mirrored the scale is negative.
    """

    run_ends: Tensor
    run_offsets: Tensor
    heights: Tensor
    to_canvas: Tensor

    def __len__(self) -> int:
        return len(self.heights)

    def to(self, device: torch.device, non_blocking: bool = False) -> "RunLengthMasks":
        """The same masks on ``device``."""
        return RunLengthMasks(
            self.run_ends.to(device, non_blocking=non_blocking),
            self.run_offsets.to(device, non_blocking=non_blocking),
            self.heights.to(device, non_blocking=non_blocking),
            self.to_canvas.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True)
class MixedMasks:
    """N objects of which some are outlines and some are runs; each is empty in the other."""

    polygons: PolygonMasks
    runs: RunLengthMasks

    def __post_init__(self) -> None:
        if len(self.polygons) != len(self.runs):
            raise ValueError(
                f"polygons of {len(self.polygons)} objects but runs of {len(self.runs)}; "
                "each must have a place for every object"
            )

    def __len__(self) -> int:
        return len(self.polygons)

    def to(self, device: torch.device, non_blocking: bool = False) -> "MixedMasks":
        """The same masks on ``device``."""
        return MixedMasks(
            self.polygons.to(device, non_blocking), self.runs.to(device, non_blocking)
        )


@dataclass(frozen=True)
class BitmapMasks:
    """(N, H, W) uint8 or bool bitmaps on the image's canvas: torchvision's form of masks."""

    bitmaps: Tensor

    def __len__(self) -> int:
        return len(self.bitmaps)

    def to(self, device: torch.device, non_blocking: bool = False) -> "BitmapMasks":
        """The same masks on ``device``."""
        return BitmapMasks(self.bitmaps.to(device, non_blocking=non_blocking))


InstanceMasks = PolygonMasks | RunLengthMasks | MixedMasks | BitmapMasks


@dataclass(frozen=True)
class Targets:
    """The objects of one image, in the pixels of the resized image; crowd regions left out.

    Args:
        boxes: (N, 4) float32.
        labels: (N,) int64, 1..K.
        masks: N masks, or None where only boxes are trained.
        keypoints: (N, P, 3) float32: x, y, and 0 not labelled, 1 hidden, 2 visible; or None.
        image_id: the data set's number for the image, for error reports.
    """

    boxes: Tensor
    labels: Tensor
    masks: InstanceMasks | None = None
    keypoints: Tensor | None = None
    image_id: int = -1

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4:
            raise ValueError(
                f"boxes must be (N, 4); got {tuple(self.boxes.shape)}. "
                "An image without objects needs (0, 4)."
            )
        if len(self.labels) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes but {len(self.labels)} labels")
        if self.masks is not None and len(self.masks) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes but {len(self.masks)} masks")
        points = self.keypoints
        if points is not None and (points.ndim != 3 or points.shape[::2] != (len(self.boxes), 3)):
            raise ValueError(
                f"keypoints must be ({len(self.boxes)}, P, 3), one row per box; "
                f"got {tuple(points.shape)}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Targets":
        """The same targets on ``device``."""
        return replace(
            self,
            boxes=self.boxes.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
            masks=None if self.masks is None else self.masks.to(device, non_blocking),
            keypoints=None
            if self.keypoints is None
            else self.keypoints.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True)
class Proposals:
    """Boxes that may hold an object, as many rows for every image, so that nobody has to wait.

    Args:
        boxes: (B, P, 4) float32, pixels of the padded batch, best first; zeros after an image's
            last.
        counts: (B,) int64, proposals of each image, on the device of the boxes.
        logits: (B, P) float32, how much each looks like an object; None where nobody judged.
    """

    boxes: Tensor
    counts: Tensor
    logits: Tensor | None = None

    def __post_init__(self) -> None:
        if self.boxes.ndim != 3 or self.boxes.shape[2] != 4:
            raise ValueError(f"boxes must be (B, P, 4); got {tuple(self.boxes.shape)}")
        if self.logits is not None and self.logits.shape != self.boxes.shape[:2]:
            raise ValueError(
                f"logits must be {tuple(self.boxes.shape[:2])} as the boxes are; "
                f"got {tuple(self.logits.shape)}"
            )
        if self.counts.shape != self.boxes.shape[:1]:
            raise ValueError(
                f"counts must be (B,), one per image of {len(self.boxes)}; "
                f"got {tuple(self.counts.shape)}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def present(self) -> Tensor:
        """(B, P) bool: which rows hold a proposal."""
        row = torch.arange(self.boxes.shape[1], device=self.boxes.device)
        return row < self.counts[:, None]

    def rois(self) -> Tensor:
        """(B * P, 5): image index and box of every row."""
        images, rows, _ = self.boxes.shape
        image = torch.arange(images, device=self.boxes.device, dtype=self.boxes.dtype)
        column = image[:, None, None].expand(images, rows, 1)
        return torch.cat((column, self.boxes), dim=2).flatten(0, 1)


class Category(NamedTuple):
    """A class of the data set: ``id`` as in its annotations, and its name."""

    id: int
    name: str
