"""Instance masks as polygons, run lengths or bitmaps."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
