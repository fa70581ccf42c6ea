"""The region proposal network: where there may be an object, of whatever class.

Shapes: B images, L levels, A anchors of one image on all levels, P proposals of an image.
Source: Ren et al. 2015, section 3.1; on a pyramid, Lin et al. 2017, section 4.1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.anchors import AnchorGrid
from model.box_coding import BoxCoder
from model.boxes import clip_boxes, image_limits, sides_at_least
from model.config import RpnConfig
from model.convolution import convolve
from model.matching import match_boxes
from model.sampling import ANCHORS, sample_candidates
from model.structures import ImageBatch, ImageSize, LossTerm, Targets
from model.suppression import keep_best_per_image
from model.truths import join_truths

# A thinner box holds no features to pool (torchvision); pixels.
THINNEST_PROPOSAL = 1e-3


class RpnHead(nn.Module):
    """A 3x3 convolution and two 1x1 siblings, shared by all levels."""

    def __init__(self, channels: int, anchors_per_cell: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors_per_cell, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors_per_cell, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Judge the anchors of one level.

        Args:
            feature: (B, C, H, W).

        Returns:
            Objectness logits (B, A_l) and box deltas (B, A_l, 4), float32, A_l = H * W * ratios,
            in the order of :class:`AnchorGrid`.
        """
        hidden = convolve(feature, self.conv, relu=True)
        logits = convolve(hidden, self.objectness).permute(0, 2, 3, 1).flatten(1)
        deltas = convolve(hidden, self.deltas).permute(0, 2, 3, 1).reshape(*logits.shape, 4)
        return logits.float(), deltas.float()


class RegionProposalNetwork(nn.Module):
    """Head, choice of proposals, and loss.

    Args:
        channels: of every pyramid level.
        anchors: the grid of anchors.
        settings: thresholds and numbers of samples and proposals.
        smooth_l1_beta: of the box loss.
    """

    def __init__(
        self, channels: int, anchors: AnchorGrid, settings: RpnConfig, smooth_l1_beta: float
    ) -> None:
        super().__init__()
        self.head = RpnHead(channels, anchors.per_cell)
        self.anchors = anchors
        self.coder = BoxCoder()
        self.settings = settings
        self.smooth_l1_beta = smooth_l1_beta

    def forward(
        self,
        features: Sequence[Tensor],
        images: ImageBatch,
        targets: Sequence[Targets] | None = None,
    ) -> tuple[list[Tensor], dict[str, LossTerm]]:
        """Propose boxes, and learn from targets where given.

        Args:
            features: P2..P6, (B, C, H_l, W_l).
            images: the batch that they show.
            targets: per image, for training.

        Returns:
            Per image (P_b, 4) proposals, pixels of the padded batch, best first, without
            gradient; and the losses rpn_objectness and rpn_box, empty without targets.
        """
        judged = [self.head(feature) for feature in features]
        logits = [level[0] for level in judged]
        deltas = [level[1] for level in judged]
        cells = [ImageSize(*feature.shape[-2:]) for feature in features]
        anchors = self.anchors(cells, ImageSize(*images.pixels.shape[-2:]))
        proposals = self._propose(logits, deltas, anchors, images.sizes, targets is not None)
        if targets is None:
            return proposals, {}
        losses = self._losses(
            torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors), images, targets
        )
        return proposals, losses

    @torch.no_grad()
    def _propose(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        sizes: Sequence[ImageSize],
        training: bool,
    ) -> list[Tensor]:
        """Per image, the best boxes of each level that do not overlap a better one of it."""
        settings, device, num_images = self.settings, logits[0].device, len(sizes)
        pre_nms = settings.pre_nms_train if training else settings.pre_nms_test
        post_nms = settings.post_nms_train if training else settings.post_nms_test
        best = [level.topk(min(pre_nms, level.shape[1]), dim=1) for level in logits]
        # Only these are decoded: a few thousand of a quarter million.
        chosen_deltas = [
            delta.gather(1, top.indices[..., None].expand(-1, -1, 4))
            for delta, top in zip(deltas, best, strict=True)
        ]
        references = [anchor[top.indices] for anchor, top in zip(anchors, best, strict=True)]
        boxes = self.coder.decode(torch.cat(chosen_deltas, 1), torch.cat(references, 1))
        boxes = clip_boxes(boxes, image_limits(sizes, device)[:, None])
        large = sides_at_least(boxes, max(settings.min_box_side, THINNEST_PROPOSAL))
        scores = torch.where(large, torch.cat([top.values for top in best], 1), -torch.inf)
        levels = torch.cat(
            [torch.full_like(top.indices, level) for level, top in enumerate(best)], dim=1
        )
        images = torch.arange(num_images, device=device)[:, None].expand_as(levels)
        boxes = boxes.flatten(0, 1)
        kept, counts = keep_best_per_image(
            boxes,
            scores.flatten(),
            images.flatten(),
            levels.flatten(),
            num_images,
            settings.nms_iou,
            post_nms,
        )
        return list(torch.split(boxes[kept], counts))

    def _losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        images: ImageBatch,
        targets: Sequence[Targets],
    ) -> dict[str, LossTerm]:
        """Losses of logits (B, A) and deltas (B, A, 4) on sampled anchors (A, 4)."""
        settings = self.settings
        matches = [
            match_boxes(
                anchors,
                target.boxes.float(),
                settings.positive_iou,
                settings.negative_iou,
                keep_best=True,
            )
            for target in targets
        ]
        samples = sample_candidates(
            [match.verdict for match in matches],
            settings.samples_per_image,
            settings.positive_fraction,
            images.sampling_seeds,
            ANCHORS,
        )
        truths = join_truths(targets, anchors.device)
        matched = torch.stack([match.truth for match in matches]) + truths.first[:, None]
        positive, is_positive = samples.positive, samples.is_positive
        references = anchors[positive]
        # Where no anchor is meant, the anchor itself: a target of zeros instead of log(0).
        boxes = torch.where(
            is_positive[..., None], truths.boxes[matched.gather(1, positive)], references
        )
        predicted = deltas.gather(1, positive[..., None].expand(-1, -1, 4))
        distance = F.smooth_l1_loss(
            predicted,
            self.coder.encode(boxes, references),
            beta=self.smooth_l1_beta,
            reduction="none",
        ).sum(dim=-1)
        # Binary cross-entropy of a positive is softplus(-logit), of a negative softplus(logit).
        surprise = F.softplus(-logits.gather(1, positive))
        false_alarm = F.softplus(logits.gather(1, samples.negative))
        count = is_positive.sum() + samples.is_negative.sum()
        return {
            "rpn_objectness": LossTerm(
                (surprise * is_positive).sum() + (false_alarm * samples.is_negative).sum(), count
            ),
            "rpn_box": LossTerm((distance * is_positive).sum(), count),
        }
