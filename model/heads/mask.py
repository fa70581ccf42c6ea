"""The mask head: which pixels of a box belong to its object.

Shapes as in ``model.structures``; M is twice the side of the pooled features.
Source: He et al. 2017, section 3 and figure 4, right.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.heads.training_rois import TrainingRois
from model.layers.conv_stack import init_kaiming_normal, make_conv_stack, run_conv_stack
from model.layers.norm import make_norms
from model.structures import ImageSize, LossTerm, MixedMasks
from model.structures.batch_masks import rasterize_masks
from ops_cuda import multiscale_roi_align


class MaskHead(nn.Module):
    """Convolutions, an upsampling by two, and one mask, that of the ROI's class.

    With a C4 backbone there are no convolutions: the input is the output of res5.

    Args:
        in_channels: channels of the pooled features.
        channels: channels of the convolutions.
        layers: number of 3x3 convolutions.
        num_classes: K, without the background.
        norm: norm after each 3x3 convolution: none, frozen_bn, batch_norm or group_norm.
        class_agnostic: predict one mask for all classes.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        layers: int,
        num_classes: int,
        norm: str = "none",
        class_agnostic: bool = False,
    ) -> None:
        super().__init__()
        self.class_agnostic = class_agnostic
        self.convs = make_conv_stack(in_channels, channels, layers, bias=norm == "none")
        init_kaiming_normal(self.convs)
        self.norms = make_norms(norm, channels, layers)
        self.upsample = nn.ConvTranspose2d(channels if layers else in_channels, channels, 2, 2)
        self.logits = nn.Conv2d(channels, 1 if class_agnostic else num_classes + 1, 1)
        for layer in (self.upsample, self.logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Return mask logits of each ROI's class.

        Args:
            pooled: (R, C, M / 2, M / 2).
            labels: (R,) int64, 1..K.

        Returns:
            (R, M, M) float32.
        """
        x = run_conv_stack(pooled, self.convs, self.norms)
        # All remaining operations act on single pixels, so pixels stay in rows: an upsampling whose
        # kernel equals its stride is a matrix product, and only the masks are rearranged.
        pixels = self._upsample_rows(x.permute(0, 2, 3, 1).flatten(1, 2))
        # The last 1x1 convolution for one class per ROI: 1/K of the work and of the memory.
        rows = torch.zeros_like(labels) if self.class_agnostic else labels
        weight = self.logits.weight.flatten(1)[rows].unsqueeze(2)  # (R, C, 1)
        masks = torch.bmm(pixels, weight.to(pixels.dtype)).squeeze(2).float()
        masks = masks + self.logits.bias[rows, None]  # type: ignore[index]
        side = x.shape[-1]
        quads = masks.view(x.shape[0], side, side, 2, 2)
        return quads.transpose(2, 3).reshape(x.shape[0], 2 * side, 2 * side)

    def _upsample_rows(self, rows: Tensor) -> Tensor:
        """Upsample rows of N pixels (R, N, C_in) to 2x2 pixels each, (R, 4 N, C), with ReLU."""
        inputs, channels = self.upsample.weight.shape[:2]
        weight = self.upsample.weight.permute(2, 3, 1, 0).reshape(4 * channels, inputs)
        bias = self.upsample.bias.repeat(4)  # type: ignore[union-attr]
        hidden = F.relu_(F.linear(rows, weight, bias))
        return hidden.view(rows.shape[0], 4 * rows.shape[1], channels)


@torch.no_grad()
def mask_targets(
    masks: MixedMasks,
    counts: Sequence[int],
    positive: TrainingRois,
    side: int,
    convention: Literal["polygon", "roi_align"],
    sizes: Sequence[ImageSize],
) -> Tensor:
    """Return the target mask of each positive ROI.

    Args:
        masks: G + 1 masks, from ``BatchTargets``.
        counts: objects of each image.
        positive: R positive ROIs, image by image.
        side: M.
        convention: "polygon" rasterizes the mask inside the ROI to 0 or 1; "roi_align" averages a
            bitmap of the whole image over each cell, as torchvision does.
        sizes: size of each image inside the batch.

    Returns:
        (R, M, M) float32 in [0, 1].
    """
    boxes, objects = positive.rois[:, 1:], positive.matched_gt_indices
    if convention == "polygon":
        return rasterize_masks(masks, objects, boxes, side)
    images, first = positive.rois[:, 0], 0
    targets = boxes.new_zeros(len(boxes), side, side)
    for image, (count, size) in enumerate(zip(counts, sizes, strict=True)):
        if count:
            targets += _average_image(masks, first, count, size, images == image, positive, side)
        first += count
    return targets


def mask_loss(logits: Tensor, targets: Tensor, valid: Tensor) -> LossTerm:
    """Return the binary cross-entropy, averaged over pixels and summed over the valid masks.

    Args:
        logits: (R, M, M) float32, of each ROI's ground-truth class.
        targets: (R, M, M) float32 in [0, 1].
        valid: (R,) bool.
    """
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    per_mask = loss.flatten(1).mean(dim=1)
    return LossTerm((per_mask * valid).sum(), valid.sum())


def _average_image(
    masks: MixedMasks,
    first: int,
    count: int,
    size: ImageSize,
    in_image: Tensor,
    positive: TrainingRois,
    side: int,
) -> Tensor:
    """Return the averages (R, M, M) for the ROIs of one image, and zeros for the others.

    All ROIs take part, because the host does not know how many belong to the image.

    Args:
        masks: the masks of the batch.
        first: the first of the image's objects.
        count: number of the image's objects, at least 1.
        size: size of the image.
        in_image: (R,) bool, the ROIs of the image.
        positive: R positive ROIs.
        side: M.
    """
    boxes, canvas = positive.rois[:, 1:], max(size)
    whole = boxes.new_zeros(count, 4)
    whole[:, 2:] = canvas
    objects = torch.arange(first, first + count, device=boxes.device)
    bitmaps = rasterize_masks(masks, objects, whole, canvas)[:, : size.height, : size.width]
    # Padding may have matched an object of another image.
    index = (positive.matched_gt_indices - first).clamp(0, count - 1)
    # A box of NaN takes no samples, and its average is zero.
    boxes = torch.where(in_image[:, None], boxes, torch.nan)
    rois = torch.cat((index[:, None].to(boxes.dtype), boxes), dim=1)
    averages = multiscale_roi_align([bitmaps[:, None]], rois, [1.0], side, 0, aligned=False)
    return averages.squeeze(1)
