"""Mask R-CNN and its family: the network, what it learns from and what it finds.

Shapes: B images, H W of the padded batch.
Source: He et al. 2017, figure 1; Lin et al. 2017.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import ops_cuda
from model.backbones.fpn import FeaturePyramid
from model.backbones.resnet import ResNet, ResNetStages
from model.boxes.anchors import AnchorGrid
from model.boxes.convention import BoxGeometry
from model.boxes.selection import SelectedBoxes, proposals_as_boxes, to_detections
from model.config import ModelConfig
from model.detections import Detections
from model.heads.keypoint import keypoint_origins
from model.heads.roi_heads import RoiHeads
from model.inference.predictor import predict
from model.layers.roi_pooling import POOLED_STRIDES
from model.retinanet.network import RetinaNet, octave_sizes
from model.rpn.network import RegionProposalNetwork
from model.structures import Category, ImageBatch, ImageSize, LossTerm, Targets


class Detector(nn.Module):
    """Mask R-CNN, Keypoint R-CNN or both; without either Faster R-CNN, without ``box`` an RPN.

    RetinaNet where ``config.retinanet`` is given: then there is no ``rpn``.

    Args:
        config: every setting.
        categories: the K classes; label i is ``categories[i - 1]``.
    """

    rpn: RegionProposalNetwork

    def __init__(self, config: ModelConfig, categories: Sequence[Category]) -> None:
        super().__init__()
        if len(categories) != config.num_classes:
            raise ValueError(
                f"num_classes is {config.num_classes} but {len(categories)} categories are given"
            )
        self.config = config
        self.categories = tuple(categories)
        rules, features = config.conventions, config.backbone.features
        self.backbone = ResNet(
            ResNetStages.of(config.backbone, rules),
            frozen_stages=config.backbone.frozen_stages,
            last_stage=4 if features == "c4" else 5,
        )
        one_stage = config.retinanet
        # Without a pyramid all anchors stand on the one map that is read.
        self.fpn: FeaturePyramid | None = None
        channels, strides = self.backbone.channels[-1], POOLED_STRIDES[features]
        sizes: Sequence[float] | Sequence[Sequence[float]] = [config.rpn.anchor_sizes]
        if features == "fpn":
            channels = config.fpn.channels
            self.fpn = FeaturePyramid(
                self.backbone.channels,
                channels,
                top=one_stage.p6_from if one_stage else "subsampled",
                norm=config.fpn.norm,
            )
            sizes, strides = config.rpn.anchor_sizes, self.fpn.strides
        grid = partial(
            AnchorGrid,
            strides=strides,
            rounded=rules.round_anchors,
            stride_from_canvas=rules.anchor_stride == "grid",
            from_stride=rules.legacy_geometry,
        )
        self.geometry = BoxGeometry(rules.legacy_geometry)
        self.roi_heads: RoiHeads | None = None
        self.retinanet: RetinaNet | None = None
        if one_stage is not None:
            sizes = octave_sizes(one_stage, whole_pixels=rules.round_anchors)
            anchors = grid(sizes, one_stage.anchor_ratios)
            self.retinanet = RetinaNet(
                channels, config.num_classes, anchors, one_stage, self.geometry
            )
        else:
            anchors = grid(sizes, config.rpn.anchor_ratios)
            beta = rules.rpn_smooth_l1_beta
            self.rpn = RegionProposalNetwork(channels, anchors, config.rpn, beta, self.geometry)
        if config.box is not None:
            self.roi_heads = RoiHeads(config, config.box, channels)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(
        self, images: ImageBatch, targets: Sequence[Targets] | None = None
    ) -> dict[str, LossTerm] | list[Detections]:
        """Learn from targets, or find objects.

        Args:
            images: B images on the detector's device, with sampling seeds if targets are given.
            targets: the objects of each image, on the same device.

        Returns:
            With targets the losses rpn_objectness, rpn_box, box_class, box_regression, mask and
            keypoint, as far as there are heads for them, or retinanet_class and retinanet_box, to
            which every trainable parameter is attached, whatever the targets hold; without, the
            detections of each image in its original pixels. A proposal network alone finds objects
            of class 1.

        Raises:
            ValueError: as many targets, or seeds, as images are needed, and are not given.
        """
        if targets is not None:
            _check_training_batch(images, targets)
        features = self.features(images)
        if self.retinanet is not None:
            if targets is not None:
                return self.retinanet.losses(features, images, targets)
            found = self.retinanet.detect(features, images)
            return self.describe(found, images)
        proposals, losses = self.rpn(features, images, targets)
        heads = self.roi_heads
        if targets is not None:
            if heads is not None:
                losses |= heads.losses(features, proposals, images, targets)
            return losses  # type: ignore[no-any-return]
        if heads is None:
            return self.describe(proposals_as_boxes(proposals), images)
        found = heads.detect(features, proposals, images.sizes)
        masks, keypoints = heads.masks_of(features, found), heads.keypoints_of(features, found)
        return self.describe(found, images, masks, keypoints)

    def features(self, images: ImageBatch) -> list[Tensor]:
        """The maps that proposals and heads read, (B, C, H_l, W_l), finest first.

        P2..P6, or P3..P7 of RetinaNet, or of a detector without a pyramid C4 or C5 alone.
        """
        maps: list[Tensor] = self.backbone(self._network_input(images))
        return maps[-1:] if self.fpn is None else self.fpn(maps)

    def describe(
        self,
        found: SelectedBoxes,
        images: ImageBatch,
        masks: Tensor | None = None,
        keypoints: Tensor | None = None,
    ) -> list[Detections]:
        """What was found, by the detector's conventions; see ``to_detections``.

        Args:
            found: D boxes in all images.
            images: the batch.
            masks: (D, M, M) float32, probabilities inside the boxes.
            keypoints: (D, P, 3) float32 as the head means them, from ``RoiHeads.keypoints_of``.
        """
        if keypoints is not None:
            origins = keypoint_origins(images, self.config.conventions)[found.rois[:, 0].long()]
            keypoints = torch.cat((keypoints[..., :2] + origins[:, None], keypoints[..., 2:]), 2)
        threshold = self.config.mask.threshold if self.config.mask else 0.5
        paste = self.geometry.mask_paste(self.config.conventions.mask_paste)
        return to_detections(found, images, masks, threshold, keypoints, self.geometry, paste)

    def predict(
        self, images: Sequence[npt.NDArray[np.uint8]], batch_size: int = 4
    ) -> list[Detections]:
        """Find the objects in pictures of any sizes.

        Args:
            images: (H, W, 3) uint8 RGB arrays.
            batch_size: pictures per forward pass. With ``config.test_augmentation`` it is not read:
                a pass holds one size of one picture, and its mirror image.

        Returns:
            Detections on the CPU, in the order and the pixels of the images.

        Raises:
            TypeError: an image is no uint8 array.
            ValueError: an image has another shape, or the batch size is not positive.
        """
        return predict(self, images, batch_size)

    def normalise(
        self, pictures: Sequence[Tensor], sizes: Sequence[ImageSize], canvas: ImageSize
    ) -> Tensor:
        """Resize and normalise pictures, in autocast's type where it is on.

        The first convolution would only convert again.

        Args:
            pictures: (h, w, 3) uint8 RGB, on the detector's device.
            sizes: what each is resized to.
            canvas: of the batch, at least as large.

        Returns:
            The network's channels, (B, 3, H, W), 0 around the pictures.
        """
        rules, kind = self.config.conventions, pictures[0].device.type
        return ops_cuda.preprocess(
            pictures,
            sizes,
            canvas,
            rules.pixel_mean,
            rules.pixel_std,
            reverse_channels=rules.pixel_order == "bgr",
            antialias=rules.resize_filter == "antialias",
            dtype=torch.get_autocast_dtype(kind)
            if torch.is_autocast_enabled(kind)
            else torch.float32,
        )

    def _network_input(self, images: ImageBatch) -> Tensor:
        """What the backbone reads: the pixels, normalised unless they are."""
        if images.pixels.is_floating_point():
            return images.pixels
        canvas = ImageSize(*images.pixels.shape[2:])
        return self.normalise(images.pictures(), images.sizes, canvas)


def build_detector(config: ModelConfig, categories: Sequence[Category] = ()) -> Detector:
    """A detector with random weights, its convolutions laid out with channels innermost.

    Args:
        config: every setting.
        categories: the classes; by default ``class_1`` to ``class_K`` with ids 1 to K.

    Raises:
        ValueError: the number of categories is not ``config.num_classes``.
    """
    named = categories or [Category(i, f"class_{i}") for i in range(1, config.num_classes + 1)]
    detector = Detector(config, named)
    return detector.to(memory_format=torch.channels_last)


def _check_training_batch(images: ImageBatch, targets: Sequence[Targets]) -> None:
    if len(targets) != len(images):
        raise ValueError(f"{len(images)} images but {len(targets)} targets")
    if len(images.sampling_seeds) != len(images):
        raise ValueError(
            f"training needs one sampling seed per image; got {len(images.sampling_seeds)} for "
            f"{len(images)} images"
        )
