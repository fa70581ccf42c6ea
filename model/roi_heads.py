"""What is computed per region of interest: its class and box, its mask, its keypoints.

Shapes: B images, R ROIs of the batch, D detections of the batch, M mask side,
P keypoints of an object.
Source: He et al. 2017, sections 3 and 5.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from model.box_coding import BoxCoder
from model.box_geometry import BoxGeometry
from model.config import BoxHeadConfig, ModelConfig
from model.heads.box import BoxHead, box_losses
from model.heads.keypoint import KeypointHead, find_keypoints, keypoint_loss, keypoint_targets
from model.heads.mask import MaskHead, mask_loss, mask_targets
from model.heads.training_rois import TrainingRois, choose_training_rois
from model.postprocess import SelectedBoxes, select_boxes
from model.roi_pooling import RoiPooler
from model.structures import ImageBatch, ImageSize, LossTerm, Proposals, Targets
from model.truths import join_truths


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
        self.box = BoxHead(channels, box.pool_side, box.hidden, config.num_classes)
        self.mask: MaskHead | None = None
        if config.mask is not None:
            self.mask_pooler = _pooler(config, config.mask.pool_side)
            self.mask = MaskHead(
                channels, config.mask.channels, config.mask.layers, config.num_classes
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
        if _waiting_is_free(device):
            chosen = chosen.compact()
        pooled = self.box_pooler(features, chosen.rois)
        logits, deltas = self.box(pooled)
        beta = self.conventions.box_smooth_l1_beta
        losses = box_losses(logits, deltas, chosen, self.box_coder, beta)
        positive = chosen.positive()
        # What is pooled from a ROI, and drawn in it, may end before the ROI does.
        drawn = replace(positive, rois=self.geometry.sampled(positive.rois))
        if self.mask is not None:
            masks = self.mask(self.mask_pooler(features, positive.rois), positive.labels)
            losses["mask"] = self._mask_loss(masks, drawn, images, targets)
        if self.keypoint is not None:
            heatmaps = self.keypoint(self.keypoint_pooler(features, positive.rois))
            places = keypoint_targets(targets, drawn, *heatmaps.shape[1:3])
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
        rois, present = proposals.rois(), proposals.present().flatten()
        if _waiting_is_free(rois.device):
            # To judge rows without a proposal costs less than to wait for a GPU to say which.
            rois, present = rois[present], present[present]
        logits, deltas = self.box(self.box_pooler(features, rois))
        return select_boxes(
            logits, deltas, rois, present, self.box_coder, sizes, self.settings, self.geometry
        )

    def masks_of(self, features: Sequence[Tensor], found: SelectedBoxes) -> Tensor | None:
        """The masks inside D boxes, (D, M, M) float32 in [0, 1]; None without a mask head."""
        if self.mask is None:
            return None
        masks: Tensor = self.mask(self.mask_pooler(features, found.rois), found.labels)
        return masks.sigmoid()

    def keypoints_of(self, features: Sequence[Tensor], found: SelectedBoxes) -> Tensor | None:
        """The keypoints of D boxes, (D, P, 3): x, y, logit; None without a keypoint head.

        They are in the pixels of the padded batch.
        """
        if self.keypoint is None:
            return None
        heatmaps = self.keypoint(self.keypoint_pooler(features, found.rois))
        return find_keypoints(heatmaps, self.geometry.sampled(found.rois[:, 1:]))


def _pooler(config: ModelConfig, side: int) -> RoiPooler:
    rules = config.conventions
    trim = BoxGeometry(rules.legacy_geometry).last_pixel
    return RoiPooler(side, rules.roi_sampling_ratio, rules.roi_aligned, trim=trim)


def _waiting_is_free(device: torch.device) -> bool:
    """Whether to drop slots that mean nothing: to ask a GPU how many they are stops the host."""
    return device.type == "cpu"
