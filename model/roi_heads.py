"""What is computed per region of interest: its class and box, its mask.

Shapes: B images, R ROIs of the batch, D detections of the batch, M mask side.
Source: He et al. 2017, section 3.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from model.box_coding import BoxCoder
from model.box_geometry import BoxGeometry
from model.config import BoxHeadConfig, ModelConfig
from model.heads.box import BoxHead, box_losses
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
        sampling = (rules.roi_sampling_ratio, rules.roi_aligned, self.geometry.last_pixel)
        self.box_pooler = RoiPooler(box.pool_side, *sampling)
        self.box_coder = BoxCoder(box.delta_weights)
        self.box = BoxHead(channels, box.pool_side, box.hidden, config.num_classes)
        self.mask: MaskHead | None = None
        if config.mask is not None:
            self.mask_pooler = RoiPooler(config.mask.pool_side, *sampling)
            self.mask = MaskHead(
                channels, config.mask.channels, config.mask.layers, config.num_classes
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
            box_class, box_regression, and mask where there is a mask head.
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
        if self.mask is not None:
            losses["mask"] = self._mask_loss(self.mask, features, positive, images, targets)
        return losses

    def _mask_loss(
        self,
        head: MaskHead,
        features: Sequence[Tensor],
        positive: TrainingRois,
        images: ImageBatch,
        targets: Sequence[Targets],
    ) -> LossTerm:
        masks = head(self.mask_pooler(features, positive.rois), positive.labels)
        rule = self.conventions.mask_targets
        drawn = replace(positive, rois=self.geometry.sampled(positive.rois))
        wanted = mask_targets(targets, drawn, masks.shape[-1], rule, images.sizes)
        return mask_loss(masks, wanted, positive.is_meant)

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


def _waiting_is_free(device: torch.device) -> bool:
    """Whether to drop slots that mean nothing: to ask a GPU how many they are stops the host."""
    return device.type == "cpu"
