"""The mask head: which pixels of a box belong to its object.

Shapes: R ROIs, C channels, M mask side (twice the pooled side), K classes.
Source: He et al. 2017, section 3 and figure 4, right.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.convolution import convolve
from model.heads.box import TrainingRois
from model.structures import BitmapMasks, ImageSize, InstanceMasks, LossTerm, PolygonMasks, Targets
from model.truths import join_polygons, join_truths
from ops_cuda import multiscale_roi_align, rasterize_polygons


class MaskHead(nn.Module):
    """Convolutions, an upsampling by two, and a mask per class, of which only one is computed.

    Args:
        in_channels: of the pooled features.
        channels: of the convolutions.
        layers: number of 3x3 convolutions.
        num_classes: K, without the background.
    """

    def __init__(self, in_channels: int, channels: int, layers: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels if layer == 0 else channels, channels, 3, padding=1)
            for layer in range(layers)
        )
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.logits = nn.Conv2d(channels, num_classes + 1, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    def forward(self, pooled: Tensor, labels: Tensor) -> Tensor:
        """Mask logits of each ROI's own class.

        Args:
            pooled: (R, C_in, M / 2, M / 2).
            labels: (R,) int64, 1..K.

        Returns:
            (R, M, M) float32.
        """
        x = pooled
        for conv in self.convs:
            x = convolve(x, conv, relu=True)  # type: ignore[arg-type]
        # From here on every operation concerns one pixel, so pixels stay in rows: an upsampling
        # whose kernel is its stride is a matrix product, and only the masks need rearranging.
        pixels = self._upsample_rows(x.permute(0, 2, 3, 1).flatten(1, 2))
        # The last 1x1 convolution for one class per ROI: a K-th of the work, and no K masks kept.
        weight = self.logits.weight.flatten(1)[labels].unsqueeze(2)  # (R, C, 1)
        masks = torch.bmm(pixels, weight.to(pixels.dtype)).squeeze(2).float()
        masks = masks + self.logits.bias[labels, None]  # type: ignore[index]
        side = x.shape[-1]
        quads = masks.view(len(x), side, side, 2, 2)
        return quads.transpose(2, 3).reshape(len(x), 2 * side, 2 * side)

    def _upsample_rows(self, rows: Tensor) -> Tensor:
        """Upsampling and ReLU of rows (R, P, C): each pixel's 2x2 successors, (R, 4 * P, C)."""
        channels = rows.shape[2]
        weight = self.upsample.weight.permute(2, 3, 1, 0).reshape(4 * channels, channels)
        bias = self.upsample.bias.repeat(4)  # type: ignore[union-attr]
        return F.relu_(F.linear(rows, weight, bias)).view(len(rows), 4 * rows.shape[1], channels)


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
        convention: polygon draws outlines inside the ROI, pixels 0 or 1; roi_align averages the
            bitmap over each cell, as torchvision does. Bitmaps are cropped by either.
        sizes: of the images inside the batch.

    Returns:
        (R, M, M) float32 in [0, 1].

    Raises:
        ValueError: an image comes without masks.
    """
    masks = [target.masks for target in targets]
    polygons = [mask for mask in masks if isinstance(mask, PolygonMasks)]
    if convention == "polygon" and len(polygons) == len(masks):
        before = join_truths(targets, positive.rois.device).first
        objects = positive.truths + before[positive.rois[:, 0].long()]
        return _draw(join_polygons(polygons), objects, positive.rois[:, 1:], side)
    counts = torch.bincount(positive.rois[:, 0].long(), minlength=len(masks)).tolist()
    crops = [
        _crop(mask, objects, boxes, side, convention, size)
        for mask, objects, boxes, size in zip(
            masks,
            torch.split(positive.truths, counts),
            torch.split(positive.rois[:, 1:], counts),
            sizes,
            strict=True,
        )
    ]
    return torch.cat(crops)


def mask_loss(logits: Tensor, targets: Tensor) -> LossTerm:
    """Binary cross-entropy, averaged over the pixels of a mask and summed over R masks.

    Args:
        logits: (R, M, M) float32, of each ROI's true class.
        targets: (R, M, M) float32 in [0, 1].
    """
    total = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    pixels = logits.shape[1] * logits.shape[2]
    return LossTerm(total / pixels, torch.full((), len(logits), device=logits.device))


def _draw(masks: PolygonMasks, objects: Tensor, boxes: Tensor, side: int) -> Tensor:
    return rasterize_polygons(
        masks.vertices, masks.polygon_offsets, masks.object_offsets, objects, boxes, side
    )


def _crop(
    masks: InstanceMasks | None,
    objects: Tensor,
    boxes: Tensor,
    side: int,
    convention: str,
    size: ImageSize,
) -> Tensor:
    """Mask targets (R, M, M) of one image."""
    if masks is None:
        raise ValueError(
            "the mask head needs masks in every target; got None. Without masks in the data set, "
            "set model.mask to null."
        )
    if not len(objects):
        return boxes.new_zeros(0, side, side)
    if isinstance(masks, PolygonMasks):
        if convention == "polygon":
            return _draw(masks, objects, boxes, side)
        masks = _fill(masks, size)
    rois = torch.cat((objects[:, None].to(boxes.dtype), boxes), dim=1)
    bitmaps = masks.bitmaps[:, None].float()
    aligned = convention == "polygon"
    crops = multiscale_roi_align([bitmaps], rois, [1.0], side, sampling_ratio=0, aligned=aligned)
    masks_in_rois = crops.squeeze(1)
    return (masks_in_rois >= 0.5).float() if aligned else masks_in_rois


def _fill(masks: PolygonMasks, size: ImageSize) -> BitmapMasks:
    """Outlines as bitmaps of the image's size."""
    side = max(size)
    objects = torch.arange(len(masks), device=masks.vertices.device)
    square = masks.vertices.new_tensor([0, 0, side, side]).repeat(len(masks), 1)
    return BitmapMasks(_draw(masks, objects, square, side)[:, : size.height, : size.width])
