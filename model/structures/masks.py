"""Instance masks of N objects as polygons, run lengths or bitmaps."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolygonMasks:
    """Masks as polygons, stored flat: object n owns polygons ``object_offsets[n:n + 2]``.

    Args:
        vertices: (N_v, 2) float32, x y pixels.
        polygon_offsets: (N_p + 1,) int64, first vertex of each polygon.
        object_offsets: (N + 1,) int64, first polygon of each object.
    """

    vertices: Tensor
    polygon_offsets: Tensor
    object_offsets: Tensor

    def __len__(self) -> int:
        return len(self.object_offsets) - 1

    def to(self, device: torch.device, non_blocking: bool = False) -> "PolygonMasks":
        """Return the masks on ``device``."""
        return PolygonMasks(
            self.vertices.to(device, non_blocking=non_blocking),
            self.polygon_offsets.to(device, non_blocking=non_blocking),
            self.object_offsets.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True)
class RunLengthMasks:
    """Masks as alternating runs of zeros and ones, zeros first, in column-major order.

    The runs cover the image as annotated. Resizing or flipping the image changes only
    ``to_canvas``, the map from the image to that original canvas. An object without runs has no
    mask.

    Args:
        run_ends: (N_r,) int64, end of each run, counted from the start of its canvas.
        run_offsets: (N + 1,) int64, first run of each object.
        heights: (N,) int64, rows of each canvas.
        to_canvas: (N, 4) float32, scale x, scale y, shift x, shift y: canvas = scale * image +
            shift, pixels. The scale is negative if the image is flipped.
    """

    run_ends: Tensor
    run_offsets: Tensor
    heights: Tensor
    to_canvas: Tensor

    def __len__(self) -> int:
        return len(self.heights)

    def to(self, device: torch.device, non_blocking: bool = False) -> "RunLengthMasks":
        """Return the masks on ``device``."""
        return RunLengthMasks(
            self.run_ends.to(device, non_blocking=non_blocking),
            self.run_offsets.to(device, non_blocking=non_blocking),
            self.heights.to(device, non_blocking=non_blocking),
            self.to_canvas.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True)
class MixedMasks:
    """Objects with polygons, runs or neither: each is empty in the representations it lacks."""

    polygons: PolygonMasks
    runs: RunLengthMasks

    def __post_init__(self) -> None:
        if len(self.polygons) != len(self.runs):
            raise ValueError(
                f"polygons of {len(self.polygons)} objects but runs of {len(self.runs)}; "
                "both must list every object"
            )

    def __len__(self) -> int:
        return len(self.polygons)

    def has_mask(self) -> Tensor:
        """Return (N,) bool: whether each object has polygons or runs; some have only a box."""
        polygons = self.polygons.object_offsets.diff() > 0
        return polygons | (self.runs.run_offsets.diff() > 0)

    def to(self, device: torch.device, non_blocking: bool = False) -> "MixedMasks":
        """Return the masks on ``device``."""
        return MixedMasks(
            self.polygons.to(device, non_blocking), self.runs.to(device, non_blocking)
        )


@dataclass(frozen=True)
class BitmapMasks:
    """Masks as (N, H, W) uint8 or bool bitmaps of the whole image, as in torchvision."""

    bitmaps: Tensor

    def __len__(self) -> int:
        return len(self.bitmaps)

    def to(self, device: torch.device, non_blocking: bool = False) -> "BitmapMasks":
        """Return the masks on ``device``."""
        return BitmapMasks(self.bitmaps.to(device, non_blocking=non_blocking))


InstanceMasks = PolygonMasks | RunLengthMasks | MixedMasks | BitmapMasks
