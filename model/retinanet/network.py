"""RetinaNet: a class and a box for every anchor of P3..P7, without proposals.

Shapes: B images, L levels, A anchors of one level, K classes, C candidates of one level.
Source: Lin et al. 2017, "Focal loss for dense object detection", section 4.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.boxes.anchors import AnchorGrid
from model.boxes.coding import BoxCoder
from model.boxes.convention import CONTINUOUS, BoxGeometry
from model.boxes.selection import Candidates, SelectedBoxes, keep_best_boxes
from model.config import RetinaNetConfig
from model.layers.convolution import convolve
from model.layers.norm import make_norm
from model.retinanet.loss import retinanet_losses
from model.structures import ImageBatch, ImageSize, LossTerm, Targets
from model.structures.batch_targets import join_truths
from ops_cuda import top_scores

# torch's own, and torchvision's.
GROUP_NORM_EPSILON = 1e-5


class RetinaNet(nn.Module):
    """Two towers of 3x3 convolutions, shared by all levels: one for classes, one for boxes.

    Args:
        channels: of every pyramid level, and of the towers.
        num_classes: K.
        anchors: the grid of anchors.
        settings: layers, thresholds, and weights of the losses.
        geometry: of the boxes.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        anchors: AnchorGrid,
        settings: RetinaNetConfig,
        geometry: BoxGeometry = CONTINUOUS,
    ) -> None:
        super().__init__()
        self.anchors = anchors
        self.settings = settings
        self.geometry = geometry
        self.num_classes = num_classes
        self.coder = BoxCoder(settings.delta_weights)
        self.class_tower, self.class_norms = _tower(channels, settings)
        self.box_tower, self.box_norms = _tower(channels, settings)
        per_cell = anchors.per_cell
        self.class_logits = nn.Conv2d(channels, per_cell * num_classes, 3, padding=1)
        self.box_deltas = nn.Conv2d(channels, per_cell * 4, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Every score starts at the prior: else the background's loss would blow up at the start.
        nn.init.constant_(
            self.class_logits.bias,  # type: ignore[arg-type]
            math.log(settings.prior / (1 - settings.prior)),
        )

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Judge the anchors of one level.

        Args:
            feature: (B, channels, H, W).

        Returns:
            Class logits (B, A, K), in autocast's type, and box deltas (B, A, 4) float32, in the
            order of :class:`AnchorGrid`.
        """
        hidden = _climb(feature, self.class_tower, self.class_norms)
        logits = convolve(hidden, self.class_logits).permute(0, 2, 3, 1)
        hidden = _climb(feature, self.box_tower, self.box_norms)
        deltas = convolve(hidden, self.box_deltas).permute(0, 2, 3, 1)
        images, height, width, _ = logits.shape
        anchors = height * width * self.anchors.per_cell
        return (
            logits.reshape(images, anchors, self.num_classes),
            deltas.reshape(images, anchors, 4).float(),
        )

    def losses(
        self, features: Sequence[Tensor], images: ImageBatch, targets: Sequence[Targets]
    ) -> dict[str, LossTerm]:
        """Learn from every anchor.

        Args:
            features: P3..P7, (B, channels, H_l, W_l).
            images: the batch that they show.
            targets: the objects of each image.

        Returns:
            retinanet_class and retinanet_box.
        """
        logits, deltas = zip(*(self(feature) for feature in features), strict=True)
        anchors = self._anchors_under(features, images)
        truths = join_truths(targets, images.pixels.device)
        return retinanet_losses(logits, deltas, anchors, truths, self.settings, self.coder)

    def detect(self, features: Sequence[Tensor], images: ImageBatch) -> SelectedBoxes:
        """The boxes worth keeping.

        Args:
            features: P3..P7, (B, channels, H_l, W_l).
            images: the batch that they show.
        """
        return self.select(self.candidates(features, images), images.sizes)

    def candidates(self, features: Sequence[Tensor], images: ImageBatch) -> Candidates:
        """The boxes that :meth:`detect` chooses from: the confident among the best per level."""
        grid = self._anchors_under(features, images)
        # Level by level: the logits of one are gone when the next are made.
        return self.confident(
            [
                self.best_of_level(self(feature), anchors)
                for feature, anchors in zip(features, grid, strict=True)
            ]
        )

    def select(self, found: Candidates, sizes: Sequence[ImageSize]) -> SelectedBoxes:
        """The boxes worth keeping.

        Args:
            found: from :meth:`candidates`.
            sizes: of each image's content inside the batch.
        """
        settings = self.settings
        best = settings.detections_per_image
        return keep_best_boxes(*found, sizes, settings.nms_iou, best, self.geometry)

    def confident(self, best: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Candidates:
        """The boxes above the least score among the best of every level."""
        boxes, scores, labels = (torch.cat(part, dim=1) for part in zip(*best, strict=True))
        likely = scores > self.settings.score_threshold
        image = likely.nonzero()[:, 0]  # waits for the device
        return Candidates(boxes[likely], scores[likely], image, labels[likely])

    def best_of_level(
        self, judged: tuple[Tensor, Tensor], anchors: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of anchor and class of one level.

        Args:
            judged: logits (B, A, K) and deltas (B, A, 4), as :meth:`forward` gives them.
            anchors: (A, 4) float32, pixels.

        Returns:
            Boxes (B, C, 4), scores (B, C) and labels (B, C), 1..K.
        """
        logits, deltas = judged
        most, classes = self.settings.pre_nms, self.num_classes
        # The best pairs are pairs of the best anchors, so that A numbers are ranked, not A * K.
        anchor = top_scores(logits.amax(dim=2), most)[1].sort(dim=1).values
        of_these = logits.gather(1, anchor[..., None].expand(-1, -1, classes))
        best, pair = top_scores(of_these.flatten(1), most)
        chosen = anchor.gather(1, pair // classes)
        moved = deltas.gather(1, chosen[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode(moved, anchors[chosen])
        return boxes, best.sigmoid(), pair % classes + 1

    def _anchors_under(self, features: Sequence[Tensor], images: ImageBatch) -> tuple[Tensor, ...]:
        cells = [ImageSize(*feature.shape[-2:]) for feature in features]
        anchors: tuple[Tensor, ...] = self.anchors(cells, ImageSize(*images.pixels.shape[-2:]))
        return anchors


def octave_sizes(settings: RetinaNetConfig, whole_pixels: bool) -> list[list[float]]:
    """The sizes of each level's anchors, spread evenly over an octave.

    Args:
        settings: the smallest of each level, and how many.
        whole_pixels: cut to whole pixels, as torchvision does.
    """
    steps = [2 ** (step / settings.anchor_scales) for step in range(settings.anchor_scales)]
    sizes = [[size * step for step in steps] for size in settings.anchor_sizes]
    return [[float(int(size)) for size in level] for level in sizes] if whole_pixels else sizes


def _tower(channels: int, settings: RetinaNetConfig) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Convolutions, and the norm of each where there are norms; then they have no bias."""
    bare = settings.norm == "none"
    layers = range(settings.layers)
    convolutions = (nn.Conv2d(channels, channels, 3, padding=1, bias=bare) for _ in layers)
    norms = (make_norm(settings.norm, channels, GROUP_NORM_EPSILON) for _ in layers if not bare)
    return nn.ModuleList(convolutions), nn.ModuleList(norms)


def _climb(x: Tensor, convolutions: nn.ModuleList, norms: nn.ModuleList) -> Tensor:
    for level, layer in enumerate(convolutions):
        norm = norms[level] if norms else None
        x = convolve(x, layer, norm, relu=True)  # type: ignore[arg-type]
    return x
