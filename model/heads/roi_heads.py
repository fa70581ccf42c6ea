"""The second stage: box, mask and keypoint heads on regions of interest.

Shapes as in ``model.structures``.
Source: He et al. 2017, sections 3 and 5.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.boxes.coding import BoxCoder
from model.boxes.convention import BoxConvention
from model.boxes.selection import Candidates, SelectedBoxes, candidates_above
from model.config import BoxHeadConfig, Conventions
from model.heads.box import BoxHead, Res5BoxHead, box_losses
from model.heads.count_on_host import CountOnHost
from model.heads.keypoint import KeypointHead, keypoint_loss, keypoint_origins, keypoint_targets
from model.heads.mask import MaskHead, mask_loss, mask_targets
from model.heads.training_rois import TrainingRois, sample_training_rois
from model.layers.roi_pooling import RoiPooler
from model.structures import BatchTargets, ImageBatch, LossTerm, Proposals

# res5 keeps about 1 MB of maps per ROI; all ROIs of a batch at once would be several GB.
ROIS_PER_CHUNK = 512
# On a GPU the mask head takes a multiple of this many ROIs: few shapes are easier to reuse memory
# for, and to choose convolution algorithms for.
POSITIVES_STEP = 32


class RoiHeads(nn.Module):
    """The box head, and optionally a mask head and a keypoint head.

    Args:
        box: the box head.
        box_pooler: pools its features.
        settings: settings of the box head: sampling, coding and thresholds.
        conventions: define the losses and the keypoint coordinates.
        mask: the mask head and its pooler. With a ``Res5BoxHead`` the pooler is not used, because
            the mask head reads the maps of res5.
        keypoint: the keypoint head and its pooler.
        class_weights: (K + 1,) weight of each label in the classification loss, or None.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        box: BoxHead,
        box_pooler: RoiPooler,
        settings: BoxHeadConfig,
        conventions: Conventions,
        mask: tuple[MaskHead, RoiPooler] | None = None,
        keypoint: tuple[KeypointHead, RoiPooler] | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.conventions = conventions
        self.box_convention = BoxConvention(conventions.legacy_geometry)
        self.box_coder = BoxCoder(settings.delta_weights)
        self.box, self.box_pooler = box, box_pooler
        self.shares_maps = isinstance(box, Res5BoxHead)
        self.mask: MaskHead | None = None
        if mask is not None:
            self.mask, self.mask_pooler = mask
        self.keypoint: KeypointHead | None = None
        if keypoint is not None:
            self.keypoint, self.keypoint_pooler = keypoint
        self.register_buffer("class_weights", class_weights, persistent=False)
        # Padding would count in the batch statistics.
        self.has_batch_norm = any(isinstance(part, _BatchNorm) for part in self.modules())

    def losses(
        self,
        features: Sequence[Tensor],
        proposals: Proposals,
        images: ImageBatch,
        targets: BatchTargets,
    ) -> dict[str, LossTerm]:
        """Return the losses of all heads on ROIs sampled from proposals and ground truth.

        Args:
            features: maps of the backbone, finest first, (B, C, H_l, W_l).
            proposals: proposals for the B images.
            images: with sampling seeds.
            targets: ground truth, with masks and keypoints for the heads that need them.

        Returns:
            box_class and box_regression, and mask and keypoint if there are heads for them.
        """
        rois = sample_training_rois(proposals, targets, images.sampling_seeds, self.settings)
        positives = None
        if _syncs_are_free(images.device) or self.has_batch_norm:
            rois = rois.without_padding()
        else:
            positives = CountOnHost(rois.labels > 0)
        box_features = self.box.extract(self.box_pooler(features, rois.rois))
        logits, deltas = self.box.predict(box_features)
        beta = self.conventions.box_smooth_l1_beta
        losses = box_losses(logits, deltas, rois, self.box_coder, beta, self.class_weights)
        if positives is not None:
            # The device has the box head to compute while the host reads how many masks to predict:
            # usually a fraction of the slots.
            most = math.ceil(positives.read() / POSITIVES_STEP) * POSITIVES_STEP
            rois = rois.fewer_positive_slots(max(most, POSITIVES_STEP))
        positive = rois.positive()
        # Like pooled features, targets are relative to the boxes of the source convention.
        in_source_boxes = replace(positive, rois=self.box_convention.source_boxes(positive.rois))
        if self.mask is not None:
            pooled = (
                box_features[rois.positive_slots]
                if self.shares_maps
                else self.mask_pooler(features, positive.rois)
            )
            mask_logits = self.mask(pooled, positive.labels)
            losses["mask"] = self._mask_loss(mask_logits, in_source_boxes, images, targets)
        if self.keypoint is not None:
            heatmaps = self.keypoint(self.keypoint_pooler(features, positive.rois))
            losses["keypoint"] = self._keypoint_loss(heatmaps, in_source_boxes, images, targets)
        return losses

    def candidates(self, features: Sequence[Tensor], proposals: Proposals) -> Candidates:
        """Return the boxes of every class of every proposal above the score threshold."""
        rois, valid = proposals.rois(), proposals.valid().flatten()
        if _syncs_are_free(rois.device):
            # On a GPU, computing the padding costs less than a sync to remove it.
            rois, valid = rois[valid], valid[valid]
        logits, deltas = self._predict_boxes(features, rois)
        return candidates_above(
            self.settings.score_threshold, logits, deltas, rois, valid, self.box_coder
        )

    def masks(self, features: Sequence[Tensor], selected: SelectedBoxes) -> Tensor | None:
        """Return the mask of each box, (D, M, M) float32 in [0, 1]; None without a mask head."""
        if self.mask is None:
            return None
        if self.shares_maps:
            pooled = self.box.extract(self.box_pooler(features, selected.rois))
        else:
            pooled = self.mask_pooler(features, selected.rois)
        logits: Tensor = self.mask(pooled, selected.labels)
        return logits.sigmoid()

    def heatmaps(self, features: Sequence[Tensor], selected: SelectedBoxes) -> Tensor | None:
        """Return keypoint logits of each box, (D, P, M, M); None without a keypoint head."""
        if self.keypoint is None:
            return None
        heatmaps: Tensor = self.keypoint(self.keypoint_pooler(features, selected.rois))
        return heatmaps

    def _predict_boxes(self, features: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits and box deltas of R ROIs, for inference."""
        # An exported program must not branch on R.
        if not self.shares_maps or torch.compiler.is_compiling():
            predicted: tuple[Tensor, Tensor] = self.box(self.box_pooler(features, rois))
            return predicted
        parts = [
            self.box(self.box_pooler(features, chunk))
            for chunk in torch.split(rois, ROIS_PER_CHUNK)
        ]
        logits, deltas = zip(*parts, strict=True)
        return torch.cat(logits), torch.cat(deltas)

    def _mask_loss(
        self, logits: Tensor, positive: TrainingRois, images: ImageBatch, targets: BatchTargets
    ) -> LossTerm:
        if targets.masks is None:
            raise ValueError("the mask head needs targets joined with masks")
        convention, side = self.conventions.mask_targets, logits.shape[-1]
        target_masks = mask_targets(
            targets.masks, targets.counts, positive, side, convention, images.sizes
        )
        # Objects that have only a box teach no mask.
        has_mask = targets.masks.has_mask()[positive.matched_gt_indices]
        return mask_loss(logits, target_masks, positive.valid & has_mask)

    def _keypoint_loss(
        self, heatmaps: Tensor, positive: TrainingRois, images: ImageBatch, targets: BatchTargets
    ) -> LossTerm:
        if targets.keypoints is None:
            raise ValueError("the keypoint head needs targets joined with keypoints")
        origins = keypoint_origins(images, self.conventions.keypoint_origin)
        cells = keypoint_targets(targets.keypoints, positive, heatmaps.shape[-1], origins)
        return keypoint_loss(heatmaps, cells)


def _syncs_are_free(device: torch.device) -> bool:
    """Return whether padding may be dropped: counting it would stall the host on a GPU."""
    return device.type == "cpu"
