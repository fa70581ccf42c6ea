"""The region proposal network: class-agnostic boxes that may contain an object.

Shapes as in ``model.structures``; N proposals per image.
Source: Ren et al. 2015, section 3.1; on a pyramid, Lin et al. 2017, section 4.1.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.boxes.anchors import AnchorGrid
from model.boxes.coding import MAX_LOG_SCALE, BoxCoder
from model.boxes.convention import CONTINUOUS, BoxConvention
from model.boxes.operations import image_limits
from model.boxes.selection import pad_for_export
from model.config import RpnConfig
from model.layers.conv_stack import make_conv_stack, run_conv_stack
from model.layers.convolution import convolve
from model.layers.patches import gather_from_levels, gather_patches, patches_save_work
from model.rpn.loss import rpn_losses
from model.structures import BatchTargets, ImageBatch, ImageSize, LossTerm, Proposals
from ops_cuda import select_proposals

# Thinner boxes have no features to pool (torchvision); pixels.
MIN_PROPOSAL_SIDE = 1e-3


class RpnHead(nn.Module):
    """3x3 convolutions and two sibling 1x1 convolutions, shared by all levels.

    Args:
        channels: channels of every level.
        anchors_per_cell: anchors per cell of the anchor grid.
        layers: number of 3x3 convolutions.
    """

    def __init__(self, channels: int, anchors_per_cell: int, layers: int = 1) -> None:
        super().__init__()
        self.convs = make_conv_stack(channels, channels, layers)
        self.objectness = nn.Conv2d(channels, anchors_per_cell, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors_per_cell, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Score the anchors of one level and predict their deltas.

        Args:
            feature: (B, C, H, W).

        Returns:
            Objectness logits (B, A_l) and box deltas (B, A_l, 4), float32, in the order of
            :class:`AnchorGrid`.
        """
        hidden = run_conv_stack(feature, self.convs)
        logits = convolve(hidden, self.objectness).permute(0, 2, 3, 1).flatten(1)
        deltas = convolve(hidden, self.deltas).permute(0, 2, 3, 1).reshape(*logits.shape, 4)
        return logits.float(), deltas.float()

    def predict_sampled(self, features: Sequence[Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Score a few anchors and predict their deltas, with gradients for those only.

        Needs a head with a single 3x3 convolution: a second one would read neighboring outputs.

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
        index = (anchors % per_cell)[..., None]
        boxes = deltas.view(*anchors.shape, per_cell, 4).gather(
            2, index[..., None].expand(-1, -1, -1, 4)
        )
        return logits.gather(2, index).squeeze(2).float(), boxes.squeeze(2).float()


class RegionProposalNetwork(nn.Module):
    """Head, proposal selection and losses.

    Args:
        channels: channels of every level.
        anchors: the anchor grid.
        settings: thresholds and numbers of samples and proposals.
        smooth_l1_beta: beta of the box loss.
        convention: box convention of the detector.
    """

    def __init__(
        self,
        channels: int,
        anchors: AnchorGrid,
        settings: RpnConfig,
        smooth_l1_beta: float,
        convention: BoxConvention = CONTINUOUS,
    ) -> None:
        super().__init__()
        self.head = RpnHead(channels, anchors.per_cell, settings.layers)
        self.anchors = anchors
        self.coder = BoxCoder()
        self.settings = settings
        self.smooth_l1_beta = smooth_l1_beta
        self.convention = convention

    def forward(self, features: Sequence[Tensor], images: ImageBatch) -> Proposals:
        """Return proposals for inference.

        Args:
            features: P2..P6, or the single map of a backbone without a pyramid, (B, C, H_l, W_l).
            images: the batch that the features were computed from.
        """
        logits, deltas = zip(*(self.head(feature) for feature in features), strict=True)
        anchors = self.anchors(features, images.canvas)
        levels = pad_for_export(logits, deltas, anchors, self.settings.pre_nms_test)
        return self.propose(*levels, images.sizes, training=False)

    def losses(
        self, features: Sequence[Tensor], images: ImageBatch, targets: BatchTargets
    ) -> tuple[Proposals, dict[str, LossTerm]]:
        """Return proposals for training, without gradients, and the losses.

        Args:
            features: as for :meth:`forward`.
            images: the batch that the features were computed from.
            targets: ground truth of the batch.

        Returns:
            Proposals, and the losses rpn_objectness and rpn_box.
        """
        # Only sampled anchors have a loss. If they are few, score all anchors without gradients and
        # the sampled ones again with gradients: a full backward pass costs as much as two forwards.
        few = len(self.head.convs) == 1 and patches_save_work(
            features, self.settings.samples_per_image
        )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not few):
            logits, deltas = zip(*(self.head(feature) for feature in features), strict=True)
        if few and torch.is_autocast_enabled(images.device.type):
            # torch <= 2.10 caches weights cast under no_grad, and casts without a graph would give
            # the sampled pass no gradient.
            torch.clear_autocast_cache()
        anchors = self.anchors(features, images.canvas)
        proposals = self.propose(logits, deltas, anchors, images.sizes, training=True)

        def predict(sampled: Tensor) -> tuple[Tensor, Tensor]:
            if few:
                return self.head.predict_sampled(features, sampled)
            return gather_from_levels(logits, sampled), gather_from_levels(deltas, sampled)

        all_anchors = torch.cat(anchors)
        losses = rpn_losses(
            predict,
            all_anchors,
            targets,
            images.sampling_seeds,
            self.settings,
            self.coder,
            self.smooth_l1_beta,
            self.convention.anchors_inside(
                all_anchors, image_limits(images.sizes, all_anchors.device)
            ),
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
        """Select the best boxes of each level by score and NMS, then the best of all levels.

        Args:
            logits: per level (B, A_l) float32, from the head.
            deltas: per level (B, A_l, 4) float32.
            anchors: per level (A_l, 4) float32, pixels.
            sizes: size of each image inside the batch.
            training: whether to use the training limits on the number of boxes.
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
            min_side=max(settings.min_box_side, MIN_PROPOSAL_SIDE),
            max_log_scale=MAX_LOG_SCALE,
            min_clipped_side=self.convention.offset,
        )
        proposals = Proposals(boxes, counts, scores)
        if training and len(logits) > 1:
            return self.convention.limit_training_proposals(proposals, settings.post_nms_train)
        return proposals
