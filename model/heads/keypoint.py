"""The keypoint head: where in a box each named point of its object is.

A keypoint is one place of a heatmap: a class among M * M, not a pair of coordinates to regress.

Shapes: R ROIs, C channels, P keypoints of an object, S pooled side, M heatmap side (4 * S).
Source: He et al. 2017, section 5; half-pixel offsets between places and pixels, Heckbert 1990.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import Conventions
from model.heads.keypoint_search import search_keypoints
from model.heads.training_rois import TrainingRois
from model.layers.convolution import convolve
from model.structures import ImageBatch, LossTerm, Targets
from model.structures.batch_targets import join_truths


class KeypointHead(nn.Module):
    """Convolutions, a learned upsampling by two to P heatmaps, and a bilinear one by two.

    Args:
        in_channels: of the pooled features.
        channels: of the convolutions.
        layers: number of 3x3 convolutions.
        keypoints: P.
    """

    def __init__(self, in_channels: int, channels: int, layers: int, keypoints: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels if layer == 0 else channels, channels, 3, padding=1)
            for layer in range(layers)
        )
        self.upsample = nn.ConvTranspose2d(channels, keypoints, 4, stride=2, padding=1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    def forward(self, pooled: Tensor) -> Tensor:
        """How much each place of each ROI looks like each keypoint.

        Args:
            pooled: (R, C_in, S, S).

        Returns:
            (R, P, M, M) float32 logits, to be compared within a heatmap.
        """
        x = pooled
        for conv in self.convs:
            x = convolve(x, conv, relu=True)  # type: ignore[arg-type]
        return F.interpolate(
            self.upsample(x).float(), scale_factor=2.0, mode="bilinear", align_corners=False
        )


class KeypointTargets(NamedTuple):
    """Where each keypoint of R ROIs should be found.

    Args:
        places: (R, P) int64, row * M + column in the heatmap; 0 where nothing is meant.
        is_meant: (R, P) bool: labelled and inside its ROI.
    """

    places: Tensor
    is_meant: Tensor


def keypoint_origins(images: ImageBatch, rules: Conventions) -> Tensor:
    """Where keypoints that the head calls (0, 0) are, x and y in the pixels of the batch: (B, 2).

    Args:
        images: the batch; numbers of pixels are those of the images as they were.
        rules: what the head learns.
    """
    device, place = images.pixels.device, rules.keypoint_origin
    if place == 0:
        return torch.zeros(len(images), 2, device=device)
    sides = zip(images.sizes, images.original_sizes, strict=True)
    places = [
        (place * now.width / was.width, place * now.height / was.height) for now, was in sides
    ]
    return torch.tensor(places).to(device, non_blocking=True)


@torch.no_grad()
def keypoint_targets(
    targets: Sequence[Targets],
    positive: TrainingRois,
    keypoints: int,
    side: int,
    origins: Tensor | None = None,
) -> KeypointTargets:
    """The heatmap place of each labelled keypoint inside its ROI, hidden ones too.

    Args:
        targets: per image, with keypoints.
        positive: R positive ROIs; all of them, as in torchvision: one without a labelled keypoint
            inside means nothing here and changes no loss.
        keypoints: P.
        side: M.
        origins: (B, 2) float32, from :func:`keypoint_origins`; None is zero.

    Raises:
        ValueError: an image comes without keypoints, or with another number of them.
    """
    device = positive.rois.device
    points = [_wanted_keypoints(target, keypoints) for target in targets]
    # As in the joined truths, a last row of zeros serves images without objects.
    every = torch.cat([*points, torch.zeros(1, keypoints, 3, device=device)])
    first = join_truths(targets, device).first
    images = positive.rois[:, 0].long()
    own = every[positive.truths + first[images]]
    near, far = positive.rois[:, None, 1:3], positive.rois[:, None, 3:]
    xy = own[..., :2]
    if origins is not None:
        xy = xy - origins[images, None]
    # Empty slots have boxes without sides: what is no number lies inside nothing.
    cells = ((xy - near) * (side / (far - near))).floor()
    # A point on the right or lower border belongs to the last cell, not to one beyond.
    cells = torch.where(xy == far, side - 1, cells)
    inside = ((cells >= 0) & (cells < side)).all(dim=2)
    is_meant = inside & (own[..., 2] > 0) & positive.is_meant[:, None]
    place = cells[..., 1] * side + cells[..., 0]
    return KeypointTargets(torch.where(is_meant, place, 0).long(), is_meant)


def keypoint_loss(heatmaps: Tensor, targets: KeypointTargets) -> LossTerm:
    """Cross-entropy over the places of a heatmap, summed over the keypoints meant.

    Args:
        heatmaps: (R, P, M, M) float32.
        targets: of the R ROIs.
    """
    surprise = F.cross_entropy(
        heatmaps.flatten(0, 1).flatten(1), targets.places.flatten(), reduction="none"
    )
    is_meant = targets.is_meant.flatten()
    return LossTerm((surprise * is_meant).sum(), is_meant.sum())


def find_keypoints(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """The best place of each heatmap, once it is resized to its box in whole pixels.

    Waits for the device: a box's size decides how much there is to compute. An exported program
    cannot do that, and has ``search_keypoints`` instead.

    Args:
        heatmaps: (R, P, M, M) float32 logits.
        boxes: (R, 4) float32, pixels.

    Returns:
        (R, P, 3) float32: x, y in the boxes' pixels, and the logit there.

    Source: Detectron's and torchvision's inference, a bicubic resize and its largest value.
    """
    if torch.compiler.is_exporting():
        return search_keypoints(heatmaps, boxes)
    count, keypoints, side = heatmaps.shape[:3]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    pixels = sides.ceil()
    scores = heatmaps.new_zeros(count, keypoints)
    places = torch.zeros(count, keypoints, dtype=torch.int64, device=heatmaps.device)
    # fp32: eight bits would move the maximum.
    with torch.autocast(heatmaps.device.type, enabled=False):
        for roi, (width, height) in enumerate(pixels.long().tolist()):
            # Two matrix products are the resize by rows and columns, and faster than it.
            columns = _bicubic_weights(heatmaps, side, width).T
            resized = _bicubic_weights(heatmaps, side, height) @ (heatmaps[roi] @ columns)
            scores[roi], places[roi] = resized.flatten(1).max(dim=1)
    width = pixels[:, :1].long()
    xy = torch.stack((places % width, places // width), dim=2) + 0.5
    return torch.cat((xy * (sides / pixels)[:, None] + boxes[:, None, :2], scores[..., None]), 2)


def _bicubic_weights(like: Tensor, side: int, length: int) -> Tensor:
    """What each of ``side`` cells adds to each of ``length`` pixels, (length, side)."""
    cells = torch.eye(side, dtype=like.dtype, device=like.device)[None, None]
    return F.interpolate(cells, (length, side), mode="bicubic", align_corners=False)[0, 0]


def _wanted_keypoints(target: Targets, keypoints: int) -> Tensor:
    if target.keypoints is None:
        raise ValueError(
            "the keypoint head needs keypoints in every target; got None. Without keypoints in the "
            "data set, set model.keypoint to null."
        )
    if target.keypoints.shape[1] != keypoints:
        raise ValueError(
            f"targets have {target.keypoints.shape[1]} keypoints per object, the keypoint head "
            f"{keypoints}: model.keypoint.names must name those of the data set, in its order"
        )
    return target.keypoints.float()
