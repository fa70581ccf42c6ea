"""The mask head: which pixels of a box belong to its object.

Shapes: R ROIs, C channels, M mask side (twice the pooled side), K classes.
Source: He et al. 2017, section 3 and figure 4, right.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.heads.training_rois import TrainingRois
from model.layers.conv_stack import convolve_in_turn, make_convolutions
from model.layers.norm import make_norms
from model.structures import BitmapMasks, ImageSize, InstanceMasks, LossTerm, Targets
from model.structures.batch_masks import draw_masks, join_masks
from model.structures.batch_targets import join_truths
from ops_cuda import multiscale_roi_align


class MaskHead(nn.Module):
    """Convolutions, an upsampling by two, and a mask per class, of which only one is computed.

    Without convolutions it reads what res5 made of each ROI, which are convolutions enough.

    Args:
        in_channels: of the pooled features.
        channels: of the convolutions.
        layers: number of 3x3 convolutions.
        num_classes: K, without the background.
        norm: after each 3x3 convolution: none, frozen_bn, batch_norm or group_norm.
        class_agnostic: one mask for all classes.
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
        self.convs = make_convolutions(in_channels, channels, layers, bias=norm == "none")
        self.norms = make_norms(norm, channels, layers)
        self.upsample = nn.ConvTranspose2d(channels if layers else in_channels, channels, 2, 2)
        self.logits = nn.Conv2d(channels, 1 if class_agnostic else num_classes + 1, 1)
        for layer in (self.upsample, self.logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Mask logits of each ROI's own class.

        Args:
            pooled: (R, C_in, M / 2, M / 2).
            labels: (R,) int64, 1..K.

        Returns:
            (R, M, M) float32.
        """
        x = convolve_in_turn(pooled, self.convs, self.norms)
        # From here on every operation concerns one pixel, so pixels stay in rows: an upsampling
        # whose kernel is its stride is a matrix product, and only the masks need rearranging.
        pixels = self._upsample_rows(x.permute(0, 2, 3, 1).flatten(1, 2))
        # The last 1x1 convolution for one class per ROI: a K-th of the work, and no K masks kept.
        rows = torch.zeros_like(labels) if self.class_agnostic else labels
        weight = self.logits.weight.flatten(1)[rows].unsqueeze(2)  # (R, C, 1)
        masks = torch.bmm(pixels, weight.to(pixels.dtype)).squeeze(2).float()
        masks = masks + self.logits.bias[rows, None]  # type: ignore[index]
        side = x.shape[-1]
        quads = masks.view(x.shape[0], side, side, 2, 2)
        return quads.transpose(2, 3).reshape(x.shape[0], 2 * side, 2 * side)

    def _upsample_rows(self, rows: Tensor) -> Tensor:
        """Upsampling and ReLU of rows (R, P, C'): each pixel's 2x2 successors, (R, 4 * P, C)."""
        inputs, channels = self.upsample.weight.shape[:2]
        weight = self.upsample.weight.permute(2, 3, 1, 0).reshape(4 * channels, inputs)
        bias = self.upsample.bias.repeat(4)  # type: ignore[union-attr]
        hidden = F.relu_(F.linear(rows, weight, bias))
        return hidden.view(rows.shape[0], 4 * rows.shape[1], channels)


@torch.no_grad()
def mask_targets(
    targets: Sequence[Targets],
    positive: TrainingRois,
    side: int,
    convention: Literal["polygon", "roi_align"],
    sizes: Sequence[ImageSize],
) -> Tensor:
    """What each positive ROI's mask should be.

    Args:
        targets: per image, with masks.
        positive: R positive ROIs, image after image.
        side: M.
        convention: polygon draws the mask inside the ROI, cells 0 or 1; roi_align averages a
            bitmap of the whole image over each cell, as torchvision does.
        sizes: of the images inside the batch.

    Returns:
        (R, M, M) float32 in [0, 1].

    Raises:
        ValueError: an image comes without masks.
    """
    masks = [_wanted_masks(target) for target in targets]
    images, boxes = positive.rois[:, 0].long(), positive.rois[:, 1:]
    if convention == "polygon":
        objects = positive.truths + join_truths(targets, boxes.device).first[images]
        return draw_masks(join_masks(masks, boxes.device), objects, boxes, side)
    counts = torch.bincount(images, minlength=len(masks)).tolist()
    averages = [
        _average(_as_bitmaps(mask, size, boxes.device), objects, inside, side)
        for mask, size, objects, inside in zip(
            masks,
            sizes,
            torch.split(positive.truths, counts),
            torch.split(boxes, counts),
            strict=True,
        )
    ]
    return torch.cat(averages)


def mask_loss(logits: Tensor, targets: Tensor, is_meant: Tensor) -> LossTerm:
    """Binary cross-entropy, averaged over the pixels of a mask and summed over the masks meant.

    Args:
        logits: (R, M, M) float32, of each ROI's true class.
        targets: (R, M, M) float32 in [0, 1].
        is_meant: (R,) bool, the masks that count.
    """
    surprise = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    per_mask = surprise.flatten(1).mean(dim=1)
    return LossTerm((per_mask * is_meant).sum(), is_meant.sum())


def _wanted_masks(target: Targets) -> InstanceMasks:
    if target.masks is None:
        raise ValueError(
            "the mask head needs masks in every target; got None. Without masks in the data set, "
            "set model.mask to null."
        )
    return target.masks


def _average(bitmaps: Tensor, objects: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Averages (R, M, M) of bitmaps (N, H, W) over the cells of R boxes."""
    # one more without a mask: an object for the ROIs of an image that has none
    maps = F.pad(bitmaps, (0, 0, 0, 0, 0, 1))[:, None].float()
    rois = torch.cat((objects[:, None].to(boxes.dtype), boxes), dim=1)
    return multiscale_roi_align([maps], rois, [1.0], side, 0, aligned=False).squeeze(1)


def _as_bitmaps(masks: InstanceMasks, size: ImageSize, device: torch.device) -> Tensor:
    """Masks as bitmaps (N, H, W) of the image's size."""
    if isinstance(masks, BitmapMasks):
        return masks.bitmaps
    side = max(size)
    whole = torch.tensor([[0.0, 0.0, side, side]], device=device).expand(len(masks), 4)
    objects = torch.arange(len(masks), device=device)
    drawn = draw_masks(join_masks([masks], device), objects, whole, side)
    return drawn[:, : size.height, : size.width]
