"""ROI align over a feature pyramid, one call for all levels, or over a single map.

Source: He et al. 2017, section 3; level by size, Lin et al. 2017, equation 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ops_cuda import multiscale_roi_align

# Strides of the maps that ``BackboneConfig.features`` names, pixels. P6 serves proposals only.
POOLED_STRIDES = {"fpn": (4, 8, 16, 32), "c4": (16,), "c5": (32,), "dc5": (16,)}


@dataclass(frozen=True)
class RoiPooler:
    """Pool a square of features per ROI from the pyramid level that suits its size.

    Args:
        side: output cells per axis.
        sampling_ratio: samples per cell and axis; 0 adapts to the ROI.
        aligned: shift by half a pixel, so that samples lie on cell centers.
        strides: strides of the pooled maps, pixels.
        far_corner_inset: pixels by which x2 and y2 move inward after the level is assigned.
    """

    side: int
    sampling_ratio: int = 2
    aligned: bool = True
    strides: tuple[int, ...] = POOLED_STRIDES["fpn"]
    far_corner_inset: float = 0.0

    def __call__(self, features: Sequence[Tensor], rois: Tensor) -> Tensor:
        """Pool R ROIs.

        Args:
            features: P2..P6, or one map, (B, C, H_l, W_l).
            rois: (R, 5) float32: image index, x1, y1, x2, y2 in pixels of the padded batch.

        Returns:
            (R, C, side, side).
        """
        return multiscale_roi_align(
            features[: len(self.strides)],
            rois,
            [1 / stride for stride in self.strides],
            self.side,
            self.sampling_ratio,
            self.aligned,
            far_corner_inset=self.far_corner_inset,
        )
