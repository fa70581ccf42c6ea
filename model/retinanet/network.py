"""RetinaNet's head: a class and a box for every anchor of P3..P7, without proposals.

Shapes as in ``model.structures``; N candidates of one level.
Source: Lin et al. 2017, "Focal loss for dense object detection", section 4.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.boxes.anchors import AnchorGrid
from model.boxes.coding import BoxCoder
from model.boxes.selection import Candidates, pad_for_export
from model.config import RetinaNetConfig
from model.layers.conv_stack import make_conv_stack, run_conv_stack
from model.layers.convolution import convolve
from model.layers.norm import make_norms
from model.retinanet.loss import retinanet_losses
from model.structures import BatchTargets, ImageBatch, LossTerm
from ops_cuda import stable_topk


class RetinaNetHead(nn.Module):
    """Two towers of 3x3 convolutions shared by all levels, one for classes and one for boxes.

    Args:
        channels: channels of every pyramid level and of the towers.
        num_classes: K.
        anchors: the anchor grid.
        settings: layers, thresholds and loss weights.
        class_weights: (K + 1,) weight of each label in the focal loss, or None.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        channels: int,
        num_classes: int,
        anchors: AnchorGrid,
        settings: RetinaNetConfig,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.anchors = anchors
        self.settings = settings
        self.num_classes = num_classes
        self.coder = BoxCoder(settings.delta_weights)
        layers, bias = settings.layers, settings.norm == "none"
        self.class_tower = make_conv_stack(channels, channels, layers, bias)
        self.class_norms = make_norms(settings.norm, channels, layers)
        self.box_tower = make_conv_stack(channels, channels, layers, bias)
        self.box_norms = make_norms(settings.norm, channels, layers)
        per_cell = anchors.per_cell
        self.class_logits = nn.Conv2d(channels, per_cell * num_classes, 3, padding=1)
        self.box_deltas = nn.Conv2d(channels, per_cell * 4, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Scores start at the prior; otherwise the background loss would dominate at first.
        nn.init.constant_(
            self.class_logits.bias,  # type: ignore[arg-type]
            math.log(settings.prior / (1 - settings.prior)),
        )

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Score the anchors of one level and predict their deltas.

        Args:
            feature: (B, C, H, W).

        Returns:
            Class logits (B, A_l, K), in autocast's dtype, and box deltas (B, A_l, 4) float32, in
            the order of :class:`AnchorGrid`.
        """
        hidden = run_conv_stack(feature, self.class_tower, self.class_norms)
        logits = convolve(hidden, self.class_logits).permute(0, 2, 3, 1)
        hidden = run_conv_stack(feature, self.box_tower, self.box_norms)
        deltas = convolve(hidden, self.box_deltas).permute(0, 2, 3, 1)
        images, height, width, _ = logits.shape
        anchors = height * width * self.anchors.per_cell
        return (
            logits.reshape(images, anchors, self.num_classes),
            deltas.reshape(images, anchors, 4).float(),
        )

    def losses(
        self, features: Sequence[Tensor], images: ImageBatch, targets: BatchTargets
    ) -> dict[str, LossTerm]:
        """Return the losses retinanet_class and retinanet_box.

        Args:
            features: P3..P7, (B, C, H_l, W_l).
            images: the batch that the features were computed from.
            targets: ground truth of the batch.
        """
        logits, deltas = zip(*(self(feature) for feature in features), strict=True)
        anchors = self.anchors(features, images.canvas)
        return retinanet_losses(
            logits, deltas, anchors, targets, self.settings, self.coder, self.class_weights
        )

    def candidates(self, features: Sequence[Tensor], images: ImageBatch) -> Candidates:
        """Return the boxes above the score threshold among the best of every level.

        Syncs with the device.

        Args:
            features: P3..P7, (B, C, H_l, W_l).
            images: the batch that the features were computed from.
        """
        # One level at a time, so that its logits are freed before those of the next are computed.
        best = [
            self._best_of_level(feature, anchors)
            for feature, anchors in zip(
                features, self.anchors(features, images.canvas), strict=True
            )
        ]
        boxes, scores, labels = (torch.cat(part, dim=1) for part in zip(*best, strict=True))
        above = scores > self.settings.score_threshold
        image = above.nonzero()[:, 0]  # device sync
        return Candidates(boxes[above], scores[above], image, labels[above])

    def _best_of_level(self, feature: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best pairs of anchor and class of one level.

        Args:
            feature: (B, C, H, W).
            anchors: (A_l, 4) float32, pixels.

        Returns:
            Boxes (B, N, 4), scores (B, N) and labels (B, N), 1..K.
        """
        count, num_classes = self.settings.pre_nms, self.num_classes
        logits, deltas = self(feature)
        (logits,), (deltas,), (anchors,) = pad_for_export([logits], [deltas], [anchors], count)
        # The best pairs belong to the best anchors, so A_l numbers are ranked instead of A_l * K.
        best_anchors = stable_topk(logits.amax(dim=2), count)[1].sort(dim=1).values
        best_logits = logits.gather(1, best_anchors[..., None].expand(-1, -1, num_classes))
        scores, pair = stable_topk(best_logits.flatten(1), count)
        selected = best_anchors.gather(1, pair // num_classes)
        selected_deltas = deltas.gather(1, selected[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode(selected_deltas, anchors[selected])
        return boxes, scores.sigmoid(), pair % num_classes + 1


def octave_sizes(settings: RetinaNetConfig, whole_pixels: bool) -> list[list[float]]:
    """Return the anchor sizes of each level, spread evenly over an octave.

    Args:
        settings: the smallest size of each level, and sizes per octave.
        whole_pixels: truncate to whole pixels, as torchvision does.
    """
    steps = [2 ** (step / settings.anchor_scales) for step in range(settings.anchor_scales)]
    sizes = [[size * step for step in steps] for size in settings.anchor_sizes]
    return [[float(int(size)) for size in level] for level in sizes] if whole_pixels else sizes
