"""The interface of all detectors, and what they share: backbone, pyramid and anchors.

Shapes as in ``model.structures``.
Source: He et al. 2017, figure 1; Lin et al. 2017.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from model.backbones.build import build_backbone
from model.backbones.fpn import FeaturePyramid, PyramidTop
from model.boxes.anchors import AnchorGrid
from model.boxes.convention import BoxConvention
from model.boxes.selection import Candidates, SelectedBoxes
from model.config import ModelConfig
from model.detections import Detections, detections_per_image
from model.heads.keypoint import keypoint_origins
from model.heads.keypoint_peaks import find_peaks
from model.layers.roi_pooling import POOLED_STRIDES
from model.preprocess import normalize_images
from model.structures import (
    BatchTargets,
    Category,
    ImageBatch,
    LossTerm,
    Targets,
    join_targets,
)
from model.structures.batch_targets import check_joined_targets


class Detector(nn.Module, ABC):
    """Base of ``TwoStageDetector``, ``OneStageDetector`` and ``ProposalNetwork``.

    A subclass implements :meth:`losses` for training, and :meth:`candidates` and :meth:`select` for
    inference. If it has a mask or keypoint head, it also overrides :meth:`masks` or
    :meth:`heatmaps`. Test-time augmentation and export call only the methods defined here.

    Args:
        config: all settings.
        categories: the K classes; label i is ``categories[i - 1]``.
        pyramid_top: ``top`` of the feature pyramid.

    Raises:
        ValueError: the number of categories is not ``config.num_classes``.
    """

    def __init__(
        self,
        config: ModelConfig,
        categories: Sequence[Category],
        pyramid_top: PyramidTop = "subsampled",
    ) -> None:
        super().__init__()
        if len(categories) != config.num_classes:
            raise ValueError(
                f"num_classes is {config.num_classes} but {len(categories)} categories are given"
            )
        self.config = config
        self.categories = tuple(categories)
        self.box_convention = BoxConvention(config.conventions.legacy_geometry)
        self.backbone = build_backbone(config.backbone, config.conventions)
        self.fpn: FeaturePyramid | None = None
        self.channels = self.backbone.channels[-1]
        self.strides: tuple[int, ...] = POOLED_STRIDES[config.backbone.features]
        if config.backbone.features == "fpn":
            self.channels = config.fpn.channels
            self.fpn = FeaturePyramid(
                self.backbone.channels,
                self.channels,
                pyramid_top,
                config.fpn.norm,
                config.conventions.relu_before_p7,
            )
            self.strides = self.fpn.strides

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def forward(
        self,
        images: ImageBatch,
        targets: Sequence[Targets] | BatchTargets | None = None,
    ) -> dict[str, LossTerm] | list[Detections]:
        """Return losses if there are targets, detections otherwise.

        Args:
            images: B images on the detector's device, with sampling seeds if there are targets.
            targets: ground truth of each image, or of the batch, on the same device.

        Returns:
            With targets, the losses by name: rpn_objectness, rpn_box, box_class, box_regression,
            mask and keypoint, for the heads that the detector has; or retinanet_class and
            retinanet_box. Every trainable parameter is in their graph, whatever the targets
            contain. Without targets, the detections of each image in its original pixels.

        Raises:
            ValueError: the number of targets or seeds is not B, or targets lack masks or keypoints.
        """
        if targets is not None:
            batch_targets = self._join_targets(images, targets)
            return self.losses(self.features(images), images, batch_targets)
        features = self.features(images)
        selected = self.detect(features, images)
        masks, heatmaps = self.masks(features, selected), self.heatmaps(features, selected)
        return self.to_detections(selected, images, masks, heatmaps)

    def features(self, images: ImageBatch) -> list[Tensor]:
        """Return the feature maps that the heads read, (B, C, H_l, W_l), finest first.

        P2..P6, RetinaNet's P3..P7, or C4 or C5 alone without a pyramid.
        """
        pixels = images.pixels
        if not pixels.is_floating_point():
            pixels = normalize_images(
                images.unpadded(), images.sizes, images.canvas, self.config.conventions
            )
        maps: list[Tensor] = self.backbone(pixels)
        return maps[-1:] if self.fpn is None else self.fpn(maps)

    @abstractmethod
    def losses(
        self, features: Sequence[Tensor], images: ImageBatch, targets: BatchTargets
    ) -> dict[str, LossTerm]:
        """Return the losses by name.

        Args:
            features: maps from :meth:`features`.
            images: the batch that the features were computed from.
            targets: ground truth of the batch.
        """

    @abstractmethod
    def candidates(self, features: Sequence[Tensor], images: ImageBatch) -> Candidates:
        """Return the boxes before NMS.

        Args:
            features: maps from :meth:`features`.
            images: the batch that the features were computed from.
        """

    @abstractmethod
    def select(self, candidates: Candidates, images: ImageBatch) -> SelectedBoxes:
        """Return the boxes that NMS keeps, up to the maximum per image."""

    def detect(self, features: Sequence[Tensor], images: ImageBatch) -> SelectedBoxes:
        """Return the detected boxes of a batch.

        Args:
            features: maps from :meth:`features`.
            images: the batch that the features were computed from.
        """
        return self.select(self.candidates(features, images), images)

    def masks(self, features: Sequence[Tensor], selected: SelectedBoxes) -> Tensor | None:
        """Return the masks of D boxes, (D, M, M) float32 in [0, 1]; None without a mask head."""
        return None

    def heatmaps(self, features: Sequence[Tensor], selected: SelectedBoxes) -> Tensor | None:
        """Return keypoint logits of D boxes, (D, P, M, M); None without a keypoint head."""
        return None

    def keypoints(self, selected: SelectedBoxes, images: ImageBatch, heatmaps: Tensor) -> Tensor:
        """Return keypoints (D, P, 3) of D boxes: x, y in pixels of the padded batch, and a logit.

        Args:
            selected: D boxes.
            images: the batch.
            heatmaps: (D, P, M, M) logits.
        """
        keypoints = find_peaks(heatmaps, self.box_convention.source_boxes(selected.boxes))
        origins = keypoint_origins(images, self.config.conventions.keypoint_origin)
        shift = origins[selected.rois[:, 0].long()]
        return torch.cat((keypoints[..., :2] + shift[:, None], keypoints[..., 2:]), 2)

    def to_detections(
        self,
        selected: SelectedBoxes,
        images: ImageBatch,
        masks: Tensor | None,
        heatmaps: Tensor | None,
    ) -> list[Detections]:
        """Return the detections of each image in its original pixels.

        Args:
            selected: D boxes.
            images: the batch.
            masks: (D, M, M) float32 in [0, 1], or None.
            heatmaps: (D, P, M, M) keypoint logits, or None.
        """
        return detections_per_image(
            selected,
            images,
            masks,
            self.config.mask.threshold if self.config.mask else 0.5,
            None if heatmaps is None else self.keypoints(selected, images, heatmaps),
            self.box_convention,
            self.box_convention.mask_paste(self.config.conventions.mask_paste),
        )

    def make_anchors(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float]) -> AnchorGrid:
        """Return the anchor grid on this detector's feature maps.

        Args:
            sizes: anchor sizes of each map: square roots of the anchor area, pixels.
            ratios: height over width.
        """
        conventions = self.config.conventions
        return AnchorGrid(
            sizes,
            ratios,
            self.strides,
            rounded=conventions.round_anchors,
            stride_from_canvas=conventions.anchor_stride == "grid",
            detectron=conventions.legacy_geometry,
        )

    def weights_of_labels(self, by_name: Mapping[str, float]) -> Tensor | None:
        """Return the weight of each label, (K + 1,), background first; None if all are alike.

        Args:
            by_name: weights of classes; others have 1.
        """
        if not by_name:
            return None
        return torch.tensor([1.0, *(by_name.get(each.name, 1.0) for each in self.categories)])

    def make_rpn_anchors(self) -> AnchorGrid:
        """Return the RPN's anchors: one size per pyramid level, or all sizes on a single map."""
        settings = self.config.rpn
        sizes = [settings.anchor_sizes]
        if self.fpn is not None:
            sizes = [(size,) for size in settings.anchor_sizes]
        return self.make_anchors(sizes, settings.anchor_ratios)

    def _join_targets(
        self, images: ImageBatch, targets: Sequence[Targets] | BatchTargets
    ) -> BatchTargets:
        if len(targets) != len(images):
            raise ValueError(f"{len(images)} images but {len(targets)} targets")
        if len(images.sampling_seeds) != len(images):
            raise ValueError(
                f"training needs one sampling seed per image; got {len(images.sampling_seeds)} for "
                f"{len(images)} images"
            )
        with_masks, keypoint = self.config.mask is not None, self.config.keypoint
        num_keypoints = 0 if keypoint is None else len(keypoint.names)
        if isinstance(targets, BatchTargets):
            check_joined_targets(targets, with_masks, num_keypoints)
            return targets
        return join_targets(targets, images.device, with_masks, num_keypoints)
