"""The region proposal network: where there may be an object, of whatever class.

Shapes: B images, L levels, A anchors of one image on all levels, P proposals of an image.
Source: Ren et al. 2015, section 3.1; on a pyramid, Lin et al. 2017, section 4.1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.boxes.anchors import AnchorGrid
from model.boxes.coding import LARGEST_LOG_SCALE, BoxCoder
from model.boxes.convention import CONTINUOUS, BoxGeometry
from model.boxes.operations import image_limits
from model.config import RpnConfig
from model.layers.convolution import convolve
from model.layers.patches import gather_patches, patches_save_work
from model.rpn.loss import gather_from_levels, rpn_losses
from model.structures import ImageBatch, ImageSize, LossTerm, Proposals, Targets
from model.structures.batch_targets import join_truths
from ops_cuda import select_proposals

# A thinner box holds no features to pool (torchvision); pixels.
THINNEST_PROPOSAL = 1e-3


class RpnHead(nn.Module):
    """3x3 convolutions and two 1x1 siblings, shared by all levels.

    Args:
        channels: of every level.
        anchors_per_cell: of the grid of anchors.
        layers: number of 3x3 convolutions.
    """

    def __init__(self, channels: int, anchors_per_cell: int, layers: int = 1) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(layers)
        )
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
            Objectness logits (B, A_l) and box deltas (B, A_l, 4), float32, A_l = H * W anchors
            per cell, in the order of :class:`AnchorGrid`.
        """
        hidden = feature
        for conv in self.convs:
            hidden = convolve(hidden, conv, relu=True)  # type: ignore[arg-type]
        logits = convolve(hidden, self.objectness).permute(0, 2, 3, 1).flatten(1)
        deltas = convolve(hidden, self.deltas).permute(0, 2, 3, 1).reshape(*logits.shape, 4)
        return logits.float(), deltas.float()

    def judge_sampled(self, features: Sequence[Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Judge a few anchors as :meth:`forward` would, without a gradient through all others.

        Only for a head of one 3x3 convolution: a second one would read its neighbours' results.

        Args:
            features: per level (B, C, H_l, W_l).
            anchors: (B, S) int64, among the A anchors of all levels.

        Returns:
            Objectness logits (B, S) and box deltas (B, S, 4), float32.
        """
        per_cell = self.objectness.out_channels
        patches = gather_patches(features, anchors // per_cell)
        (conv,) = self.convs
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)  # type: ignore[operator]
        hidden = F.relu(F.linear(patches, weight, conv.bias))  # type: ignore[arg-type]
        logits = F.linear(hidden, self.objectness.weight.flatten(1), self.objectness.bias)
        deltas = F.linear(hidden, self.deltas.weight.flatten(1), self.deltas.bias)
        nth = (anchors % per_cell)[..., None]
        boxes = deltas.view(*anchors.shape, per_cell, 4).gather(
            2, nth[..., None].expand(-1, -1, -1, 4)
        )
        return logits.gather(2, nth).squeeze(2).float(), boxes.squeeze(2).float()


class RegionProposalNetwork(nn.Module):
    """Head, choice of proposals, and loss.

    Args:
        channels: of every level.
        anchors: the grid of anchors.
        settings: thresholds and numbers of samples and proposals.
        smooth_l1_beta: of the box loss.
        geometry: of the boxes.
    """

    def __init__(
        self,
        channels: int,
        anchors: AnchorGrid,
        settings: RpnConfig,
        smooth_l1_beta: float,
        geometry: BoxGeometry = CONTINUOUS,
    ) -> None:
        super().__init__()
        self.head = RpnHead(channels, anchors.per_cell, settings.layers)
        self.anchors = anchors
        self.coder = BoxCoder()
        self.settings = settings
        self.smooth_l1_beta = smooth_l1_beta
        self.geometry = geometry

    def forward(
        self,
        features: Sequence[Tensor],
        images: ImageBatch,
        targets: Sequence[Targets] | None = None,
    ) -> tuple[Proposals, dict[str, LossTerm]]:
        """Propose boxes, and learn from targets where given.

        Args:
            features: P2..P6, or the one map of a backbone without a pyramid, (B, C, H_l, W_l).
            images: the batch that they show.
            targets: per image, for training.

        Returns:
            The proposals of each image, without gradient; and the losses rpn_objectness and
            rpn_box, empty without targets.
        """
        # Only the sampled anchors learn. Where they are few, all are judged without a gradient,
        # the sampled ones once more with it: the backward pass of all costs as two forwards.
        few = (
            targets is not None
            and len(self.head.convs) == 1
            and patches_save_work(features, self.settings.samples_per_image)
        )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not few):
            judged = [self.head(feature) for feature in features]
        logits = [level[0] for level in judged]
        deltas = [level[1] for level in judged]
        cells = [ImageSize(*feature.shape[-2:]) for feature in features]
        anchors = self.anchors(cells, ImageSize(*images.pixels.shape[-2:]))
        proposals = self.propose(logits, deltas, anchors, images.sizes, targets is not None)
        if targets is None:
            return proposals, {}

        def judge(chosen: Tensor) -> tuple[Tensor, Tensor]:
            if few:
                return self.head.judge_sampled(features, chosen)
            return gather_from_levels(logits, chosen), gather_from_levels(deltas, chosen)

        tiled = torch.cat(anchors)
        losses = rpn_losses(
            judge,
            tiled,
            join_truths(targets, images.pixels.device),
            images.sampling_seeds,
            self.settings,
            self.coder,
            self.smooth_l1_beta,
            self.geometry.inside(tiled, image_limits(images.sizes, tiled.device)),
        )
        return proposals, losses

    @torch.no_grad()
    def propose(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        sizes: Sequence[ImageSize],
        training: bool,
    ) -> Proposals:
        """The best boxes of each level of each image that no better one of it overlaps.

        Args:
            logits: per level (B, A_l) float32, as the head gives them.
            deltas: per level (B, A_l, 4) float32.
            anchors: per level (A_l, 4) float32, pixels.
            sizes: of each image's content inside the batch.
            training: whether as many are wanted as for training.
        """
        settings = self.settings
        boxes, scores, counts = select_proposals(
            logits,
            deltas,
            anchors,
            image_limits(sizes, logits[0].device),
            pre_nms=settings.pre_nms_train if training else settings.pre_nms_test,
            post_nms=settings.post_nms_train if training else settings.post_nms_test,
            iou_threshold=settings.nms_iou,
            min_side=max(settings.min_box_side, THINNEST_PROPOSAL),
            largest_log_scale=LARGEST_LOG_SCALE,
            kept_side=self.geometry.last_pixel,
        )
        proposals = Proposals(boxes, counts, scores)
        if training and len(logits) > 1:
            return self.geometry.training_proposals(proposals, settings.post_nms_train)
        return proposals
