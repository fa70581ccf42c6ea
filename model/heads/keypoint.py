"""The keypoint head: a heatmap per keypoint, in which one cell is the class to predict.

Shapes as in ``model.structures``; pooled features have side N, and M = 4 N.
Source: He et al. 2017, section 5; half-pixel offsets between cells and pixels, Heckbert 1990.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.heads.training_rois import TrainingRois
from model.layers.conv_stack import make_conv_stack, run_conv_stack
from model.structures import ImageBatch, LossTerm
from model.structures.transfer import tensor_on


class KeypointHead(nn.Module):
    """Convolutions, a learned upsampling by two to P heatmaps, and a bilinear one by two.

    Args:
        in_channels: channels of the pooled features.
        channels: channels of the convolutions.
        layers: number of 3x3 convolutions.
        num_keypoints: P.
    """

    def __init__(self, in_channels: int, channels: int, layers: int, num_keypoints: int) -> None:
        super().__init__()
        self.num_keypoints = num_keypoints
        self.convs = make_conv_stack(in_channels, channels, layers)
        self.upsample = nn.ConvTranspose2d(channels, num_keypoints, 4, stride=2, padding=1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    def forward(self, pooled: Tensor) -> Tensor:
        """Return a logit for each keypoint at each heatmap cell.

        Args:
            pooled: (R, C, N, N).

        Returns:
            (R, P, M, M) float32; logits of the same heatmap are comparable.
        """
        x = run_conv_stack(pooled, self.convs)
        return F.interpolate(
            self.upsample(x).float(), scale_factor=2.0, mode="bilinear", align_corners=False
        )


class KeypointTargets(NamedTuple):
    """The target heatmap cell of each keypoint of R ROIs.

    Args:
        cells: (R, P) int64, row * M + column; 0 where invalid.
        valid: (R, P) bool: labeled and inside its ROI.
    """

    cells: Tensor
    valid: Tensor


def keypoint_origins(images: ImageBatch, origin: float) -> Tensor:
    """Return the position of the head's keypoint coordinate (0, 0) in each image of the batch.

    Args:
        images: the batch.
        origin: ``Conventions.keypoint_origin``, pixels of the original image.

    Returns:
        (B, 2) float32: x and y, pixels of the padded batch.
    """
    if origin == 0:
        return torch.zeros(len(images), 2, device=images.device)
    sizes = zip(images.sizes, images.original_sizes, strict=True)
    # Exported programs get images of their original size, and then keep the origin as a constant.
    origins = [
        (origin, origin)
        if size == original
        else (origin * size.width / original.width, origin * size.height / original.height)
        for size, original in sizes
    ]
    return tensor_on(images.device, origins, torch.float32)


@torch.no_grad()
def keypoint_targets(
    keypoints: Tensor, positive: TrainingRois, side: int, origins: Tensor
) -> KeypointTargets:
    """Return the heatmap cell of each labeled keypoint inside its ROI, hidden ones included.

    Args:
        keypoints: (G + 1, P, 3) float32, from ``BatchTargets``.
        positive: R positive ROIs. All are used, as in torchvision: one without a labeled keypoint
            inside has no valid keypoint and no loss.
        side: M.
        origins: (B, 2) float32, from :func:`keypoint_origins`.
    """
    matched = keypoints[positive.matched_gt_indices]
    images = positive.rois[:, 0].long()
    near, far = positive.rois[:, None, 1:3], positive.rois[:, None, 3:]
    xy = matched[..., :2] - origins[images, None]
    # Boxes in padding have no extent; the resulting NaN lies inside nothing.
    cells = ((xy - near) * (side / (far - near))).floor()
    # A keypoint on the right or lower border belongs to the last cell.
    cells = torch.where(xy == far, side - 1, cells)
    inside = ((cells >= 0) & (cells < side)).all(dim=2)
    valid = inside & (matched[..., 2] > 0) & positive.valid[:, None]
    flat = cells[..., 1] * side + cells[..., 0]
    return KeypointTargets(torch.where(valid, flat, 0).long(), valid)


def keypoint_loss(heatmaps: Tensor, targets: KeypointTargets) -> LossTerm:
    """Return the cross-entropy over heatmap cells, summed over the valid keypoints.

    Args:
        heatmaps: (R, P, M, M) float32.
        targets: target cells of the R ROIs.
    """
    loss = F.cross_entropy(
        heatmaps.flatten(0, 1).flatten(1), targets.cells.flatten(), reduction="none"
    )
    valid = targets.valid.flatten()
    return LossTerm((loss * valid).sum(), valid.sum())
