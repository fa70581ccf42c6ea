"""Two-stage detection: Faster, Mask and Keypoint R-CNN (He et al. 2017)."""

from collections.abc import Sequence

from torch import Tensor

from model.backbones.resnet import ResNetStages
from model.boxes.selection import Candidates, SelectedBoxes, select_boxes
from model.config import BoxHeadConfig, ModelConfig
from model.detector import Detector
from model.heads.box import BoxHead, ConvFcBoxHead, Res5BoxHead
from model.heads.keypoint import KeypointHead
from model.heads.mask import MaskHead
from model.heads.roi_heads import RoiHeads
from model.layers.roi_pooling import POOLED_STRIDES, RoiPooler
from model.rpn.network import RegionProposalNetwork
from model.structures import BatchTargets, Category, ImageBatch, LossTerm


class TwoStageDetector(Detector):
    """Backbone, RPN and ROI heads.

    Args:
        config: all settings.
        settings: its box head settings.
        categories: the K classes.
    """

    def __init__(
        self, config: ModelConfig, settings: BoxHeadConfig, categories: Sequence[Category]
    ) -> None:
        super().__init__(config, categories)
        self.settings = settings
        self.rpn = RegionProposalNetwork(
            self.channels,
            self.make_rpn_anchors(),
            config.rpn,
            config.conventions.rpn_smooth_l1_beta,
            self.box_convention,
        )
        self.roi_heads = RoiHeads(
            self._make_box_head(),
            self._make_pooler(settings.pool_side),
            settings,
            config.conventions,
            mask=self._make_mask_head(),
            keypoint=self._make_keypoint_head(),
            class_weights=self.weights_of_labels(settings.class_weights),
        )

    def losses(
        self, features: Sequence[Tensor], images: ImageBatch, targets: BatchTargets
    ) -> dict[str, LossTerm]:
        """Return the losses of RPN, box head, and mask and keypoint head if there are any."""
        proposals, losses = self.rpn.losses(features, images, targets)
        return losses | self.roi_heads.losses(features, proposals, images, targets)

    def candidates(self, features: Sequence[Tensor], images: ImageBatch) -> Candidates:
        """Return the boxes of every class of every proposal above the score threshold."""
        return self.roi_heads.candidates(features, self.rpn(features, images))

    def select(self, candidates: Candidates, images: ImageBatch) -> SelectedBoxes:
        """Run NMS within each class."""
        return select_boxes(
            candidates,
            images.sizes,
            self.settings.nms_iou,
            self.settings.detections_per_image,
            self.box_convention,
        )

    def masks(self, features: Sequence[Tensor], selected: SelectedBoxes) -> Tensor | None:
        """Return the masks of D boxes, (D, M, M) float32 in [0, 1]; None without a mask head."""
        return self.roi_heads.masks(features, selected)

    def heatmaps(self, features: Sequence[Tensor], selected: SelectedBoxes) -> Tensor | None:
        """Return keypoint logits of D boxes, (D, P, M, M); None without a keypoint head."""
        return self.roi_heads.heatmaps(features, selected)

    def _make_pooler(self, side: int) -> RoiPooler:
        conventions = self.config.conventions
        return RoiPooler(
            side,
            conventions.roi_sampling_ratio,
            conventions.roi_aligned,
            POOLED_STRIDES[self.config.backbone.features],
            far_corner_inset=self.box_convention.offset,
        )

    def _make_box_head(self) -> BoxHead:
        config, settings = self.config, self.settings
        if config.backbone.features == "c4":
            return Res5BoxHead(
                ResNetStages.from_config(config.backbone, config.conventions),
                config.num_classes,
                frozen=config.backbone.frozen_stages >= 5,
                class_agnostic=settings.class_agnostic,
            )
        return ConvFcBoxHead(
            self.channels,
            settings.pool_side,
            config.num_classes,
            settings.hidden,
            settings.fc_layers,
            settings.conv_layers,
            settings.conv_channels,
            settings.norm,
            settings.fc_norm,
            settings.class_agnostic,
        )

    def _make_mask_head(self) -> tuple[MaskHead, RoiPooler] | None:
        settings = self.config.mask
        if settings is None:
            return None
        reads_res5 = self.config.backbone.features == "c4"
        head = MaskHead(
            2 * self.channels if reads_res5 else self.channels,
            settings.channels,
            0 if reads_res5 else settings.layers,
            self.config.num_classes,
            settings.norm,
            settings.class_agnostic,
        )
        return head, self._make_pooler(settings.pool_side)

    def _make_keypoint_head(self) -> tuple[KeypointHead, RoiPooler] | None:
        settings = self.config.keypoint
        if settings is None:
            return None
        head = KeypointHead(self.channels, settings.channels, settings.layers, len(settings.names))
        return head, self._make_pooler(settings.pool_side)
