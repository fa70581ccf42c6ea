"""What is computed per region of interest: its class and box, its mask, its keypoints.

Shapes: B images, R ROIs of the batch, D detections of the batch, M mask side,
P keypoints of an object.
Source: He et al. 2017, sections 3 and 5.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from model.backbones.resnet import ResNetStages
from model.boxes.coding import BoxCoder
from model.boxes.convention import BoxGeometry
from model.boxes.selection import Candidates, SelectedBoxes, confident_boxes, keep_best_boxes
from model.config import BoxHeadConfig, ModelConfig
from model.heads.box import BoxHead, box_losses
from model.heads.conv_fc import ConvFcBoxHead
from model.heads.keypoint import (
    KeypointHead,
    find_keypoints,
    keypoint_loss,
    keypoint_origins,
    keypoint_targets,
)
from model.heads.mask import MaskHead, mask_loss, mask_targets
from model.heads.res5 import Res5BoxHead
from model.heads.training_rois import TrainingRois, choose_training_rois
from model.layers.roi_pooling import POOLED_STRIDES, RoiPooler
from model.structures import ImageBatch, ImageSize, LossTerm, Proposals, Targets
from model.structures.batch_targets import join_truths

ROIS_AT_ONCE = 512


class RoiHeads(nn.Module):
    """The heads of Fast R-CNN and of those who came after it.

    Args:
        config: of the whole detector; its ``box`` is not None.
        box: settings of the box head.
        channels: of the feature maps.
    """

    def __init__(self, config: ModelConfig, box: BoxHeadConfig, channels: int) -> None:
        super().__init__()
        rules = config.conventions
        self.settings = box
        self.conventions = rules
        self.geometry = BoxGeometry(rules.legacy_geometry)
        self.box_pooler = _pooler(config, box.pool_side)
        self.box_coder = BoxCoder(box.delta_weights)
        self.box = _box_head(config, box, channels)
        # With c4 the mask head reads what the box head's res5 made of an ROI.
        self.shares_maps = isinstance(self.box, Res5BoxHead)
        self.mask: MaskHead | None = None
        if config.mask is not None:
            self.mask_pooler = _pooler(config, config.mask.pool_side)
            self.mask = MaskHead(
                2 * channels if self.shares_maps else channels,
                config.mask.channels,
                0 if self.shares_maps else config.mask.layers,
                config.num_classes,
                config.mask.norm,
                config.mask.class_agnostic,
            )
        self.keypoint: KeypointHead | None = None
        if config.keypoint is not None:
            self.keypoint_pooler = _pooler(config, config.keypoint.pool_side)
            self.keypoint = KeypointHead(
                channels,
                config.keypoint.channels,
                config.keypoint.layers,
                len(config.keypoint.names),
            )
        # Slots that mean nothing would count in the statistics of a batch norm.
        self.averages_rois = any(isinstance(part, nn.BatchNorm2d) for part in self.modules())

    def losses(
        self,
        features: Sequence[Tensor],
        proposals: Proposals,
        images: ImageBatch,
        targets: Sequence[Targets],
    ) -> dict[str, LossTerm]:
        """Learn from proposals sampled around the objects.

        Args:
            features: the backbone's maps, finest first, (B, C, H_l, W_l).
            proposals: of the B images.
            images: with their sampling seeds.
            targets: the objects of each image.

        Returns:
            box_class, box_regression, mask where there is a mask head and keypoint where there is
            a keypoint head.
        """
        device = images.pixels.device
        truths = join_truths(targets, device)
        chosen = choose_training_rois(proposals, truths, images.sampling_seeds, self.settings)
        if _waiting_is_free(device) or self.averages_rois:
            chosen = chosen.compact()
        described = self.box.describe(self.box_pooler(features, chosen.rois))
        logits, deltas = self.box.predict(described)
        beta = self.conventions.box_smooth_l1_beta
        losses = box_losses(logits, deltas, chosen, self.box_coder, beta)
        positive = chosen.positive()
        # What is pooled from a ROI, and drawn in it, may end before the ROI does.
        drawn = replace(positive, rois=self.geometry.sampled(positive.rois))
        if self.mask is not None:
            shown = (
                described[chosen.positive_slots]
                if self.shares_maps
                else self.mask_pooler(features, positive.rois)
            )
            masks = self.mask(shown, positive.labels)
            losses["mask"] = self._mask_loss(masks, drawn, images, targets)
        if self.keypoint is not None:
            heatmaps = self.keypoint(self.keypoint_pooler(features, positive.rois))
            count, side = heatmaps.shape[1:3]
            origins = keypoint_origins(images, self.conventions)
            places = keypoint_targets(targets, drawn, count, side, origins)
            losses["keypoint"] = keypoint_loss(heatmaps, places)
        return losses

    def _mask_loss(
        self,
        masks: Tensor,
        drawn: TrainingRois,
        images: ImageBatch,
        targets: Sequence[Targets],
    ) -> LossTerm:
        rule = self.conventions.mask_targets
        wanted = mask_targets(targets, drawn, masks.shape[-1], rule, images.sizes)
        return mask_loss(masks, wanted, drawn.is_meant)

    def detect(
        self, features: Sequence[Tensor], proposals: Proposals, sizes: Sequence[ImageSize]
    ) -> SelectedBoxes:
        """The boxes worth keeping among what the proposals show.

        Args:
            features: the backbone's maps.
            proposals: of the B images.
            sizes: of each image's content inside the batch.
        """
        settings = self.settings
        found = self.candidates(features, proposals)
        best = settings.detections_per_image
        return keep_best_boxes(*found, sizes, settings.nms_iou, best, self.geometry)

    def candidates(self, features: Sequence[Tensor], proposals: Proposals) -> Candidates:
        """The boxes that :meth:`detect` chooses from: of every class that a proposal may show."""
        rois, present = proposals.rois(), proposals.present().flatten()
        if _waiting_is_free(rois.device):
            # To judge rows without a proposal costs less than to wait for a GPU to say which.
            rois, present = rois[present], present[present]
        logits, deltas = self._judge(features, rois)
        threshold = self.settings.score_threshold
        return confident_boxes(logits, deltas, rois, present, self.box_coder, threshold)

    def masks_of(self, features: Sequence[Tensor], found: SelectedBoxes) -> Tensor | None:
        """The masks inside D boxes, (D, M, M) float32 in [0, 1]; None without a mask head."""
        if self.mask is None:
            return None
        if self.shares_maps:
            shown = self.box.describe(self.box_pooler(features, found.rois))
        else:
            shown = self.mask_pooler(features, found.rois)
        masks: Tensor = self.mask(shown, found.labels)
        return masks.sigmoid()

    def keypoints_of(self, features: Sequence[Tensor], found: SelectedBoxes) -> Tensor | None:
        """The keypoints of D boxes, (D, P, 3): x, y, logit; None without a keypoint head.

        They are in the pixels of the padded batch, from what ``keypoint_origins`` says.
        """
        heatmaps = self.heatmaps_of(features, found)
        return None if heatmaps is None else self.keypoints_in(heatmaps, found.rois[:, 1:])

    def heatmaps_of(self, features: Sequence[Tensor], found: SelectedBoxes) -> Tensor | None:
        """Logits of the keypoints in D boxes, (D, P, M, M); None without a keypoint head."""
        if self.keypoint is None:
            return None
        heatmaps: Tensor = self.keypoint(self.keypoint_pooler(features, found.rois))
        return heatmaps

    def keypoints_in(self, heatmaps: Tensor, boxes: Tensor) -> Tensor:
        """The keypoints (D, P, 3) that heatmaps (D, P, M, M) show, in the pixels of the boxes."""
        return find_keypoints(heatmaps, self.geometry.sampled(boxes))

    def _judge(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas of R ROIs, for inference."""
        if not self.shares_maps or torch.compiler.is_compiling():
            judged: tuple[Tensor, Tensor] = self.box(self.box_pooler(features, rois))
            return judged
        # res5 keeps a MB of maps per ROI: all ROIs of a batch at once would be several GB.
        parts = [
            self.box(self.box_pooler(features, few)) for few in torch.split(rois, ROIS_AT_ONCE)
        ]
        logits, deltas = zip(*parts, strict=True)
        return torch.cat(logits), torch.cat(deltas)


def _pooler(config: ModelConfig, side: int) -> RoiPooler:
    rules = config.conventions
    strides = POOLED_STRIDES[config.backbone.features]
    trim = BoxGeometry(rules.legacy_geometry).last_pixel
    return RoiPooler(side, rules.roi_sampling_ratio, rules.roi_aligned, strides, trim)


def _box_head(config: ModelConfig, box: BoxHeadConfig, channels: int) -> BoxHead:
    if config.backbone.features == "c4":
        return Res5BoxHead(
            ResNetStages.of(config.backbone, config.conventions),
            config.num_classes,
            frozen=config.backbone.frozen_stages >= 5,
            class_agnostic=box.class_agnostic,
        )
    return ConvFcBoxHead(
        channels,
        box.pool_side,
        config.num_classes,
        box.hidden,
        box.fc_layers,
        box.conv_layers,
        box.conv_channels,
        box.norm,
        box.fc_norm,
        box.class_agnostic,
    )


def _waiting_is_free(device: torch.device) -> bool:
    """Whether to drop slots that mean nothing: to ask a GPU how many they are stops the host."""
    return device.type == "cpu"
