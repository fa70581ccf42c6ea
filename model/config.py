"""Every setting that shapes the detector, as one frozen, validated tree.

Defaults are Mask R-CNN with ResNet-50-FPN as published (He et al. 2017; Lin et al. 2017), with the
constants of Detectron's 1x schedule. Settings stop at the constructors: layers take plain values.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from model.keypoint_names import COCO_PERSON_KEYPOINTS
from model.settings import Fraction, NonNegative, Positive, PositiveFloat, Settings


class Conventions(Settings):
    """What a set of weights takes for granted; stored with the weights and restored with them."""

    pixel_order: Literal["rgb", "bgr"] = Field("rgb", description="Channel order of the input.")
    pixel_mean: tuple[float, float, float] = Field(
        (123.675, 116.28, 103.53), description="Subtracted per channel, in 0..255, in pixel_order."
    )
    pixel_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (58.395, 57.12, 57.375), description="Divisor per channel, in 0..255, in pixel_order."
    )
    stride_in_1x1: bool = Field(
        False, description="Bottleneck stride in the 1x1 convolution (Detectron R-50/101)."
    )
    norm_epsilon: float = Field(1e-5, ge=0.0, description="Epsilon of the backbone's norm layers.")
    round_anchors: bool = Field(
        False, description="Round the base anchors to whole pixels, as torchvision does."
    )
    anchor_stride: Literal["level", "grid"] = Field(
        "level",
        description="level: 4, 8 .. 64 pixels; grid: canvas // cells, as torchvision (61 for the "
        "13 cells of P6 on 800 pixels).",
    )
    roi_aligned: bool = Field(
        True, description="ROI align with the half-pixel shift (detectron2); False: torchvision."
    )
    roi_sampling_ratio: NonNegative = Field(
        2, description="Samples per ROI bin and axis; 0 adapts to the ROI's size."
    )
    rpn_smooth_l1_beta: float = Field(1 / 9, ge=0.0, description="RPN box loss; 0 is plain L1.")
    box_smooth_l1_beta: float = Field(1.0, ge=0.0, description="Box head loss; 0 is plain L1.")
    mask_targets: Literal["polygon", "roi_align"] = Field(
        "polygon",
        description="Mask targets drawn inside the ROI, or averages of a bitmap of the image.",
    )
    legacy_geometry: bool = Field(
        False,
        description="Boxes include their last pixel, anchors are centred on (stride - 1) / 2 and "
        "masks pasted into whole pixels (Detectron, maskrcnn-benchmark). Kept on record; the "
        "detector does not follow it yet.",
    )


TORCHVISION = Conventions(
    round_anchors=True,
    anchor_stride="grid",
    roi_aligned=False,
    norm_epsilon=0.0,
    box_smooth_l1_beta=1 / 9,
    mask_targets="roi_align",
)
"""torchvision's ``maskrcnn_resnet50_fpn`` with its COCO weights (v1)."""


class InputConfig(Settings):
    """How an image is sized before the network sees it."""

    short_side: Positive = Field(800, description="Short side after resizing, pixels.")
    long_side: Positive = Field(1333, description="Limit of the long side, pixels.")
    size_divisor: Positive = Field(32, description="A batch is padded to multiples of this.")

    @model_validator(mode="after")
    def _sides_in_order(self) -> "InputConfig":
        if self.long_side < self.short_side:
            raise ValueError(f"long_side {self.long_side} is below short_side {self.short_side}")
        return self


class BackboneConfig(Settings):
    """ResNet (He et al. 2016) with a feature pyramid (Lin et al. 2017)."""

    depth: Literal[18, 34, 50, 101] = Field(50, description="ResNet depth.")
    norm: Literal["frozen_bn", "batch_norm", "group_norm"] = Field(
        "frozen_bn", description="frozen_bn needs pretrained weights, the others do not."
    )
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = Field(
        2, description="Stages that do not train, counted from the stem: 2 is stem and res2."
    )
    width: Positive = Field(64, description="Channels of the stem; the stages scale with it.")
    fpn_channels: Positive = Field(256, description="Channels of every pyramid level.")


class RpnConfig(Settings):
    """Region proposal network (Ren et al. 2015)."""

    anchor_sizes: tuple[PositiveFloat, ...] = Field(
        (32.0, 64.0, 128.0, 256.0, 512.0), description="One anchor size per level P2..P6, pixels."
    )
    anchor_ratios: tuple[PositiveFloat, ...] = Field(
        (0.5, 1.0, 2.0), description="Height over width of the anchors."
    )
    positive_iou: Fraction = Field(0.7, description="An anchor at or above this is an object.")
    negative_iou: Fraction = Field(0.3, description="An anchor below this is background.")
    samples_per_image: Positive = Field(256, description="Anchors sampled for the loss.")
    positive_fraction: Fraction = Field(0.5, description="Largest share of positive samples.")
    nms_iou: Fraction = Field(0.7, description="Overlap at which a proposal suppresses another.")
    pre_nms_train: Positive = Field(2000, description="Proposals per level before NMS, training.")
    pre_nms_test: Positive = Field(1000, description="Proposals per level before NMS, inference.")
    post_nms_train: Positive = Field(2000, description="Proposals per image, training.")
    post_nms_test: Positive = Field(1000, description="Proposals per image, inference.")
    min_box_side: float = Field(0.0, ge=0.0, description="Smaller proposals are dropped, pixels.")

    @model_validator(mode="after")
    def _one_size_per_level(self) -> "RpnConfig":
        if len(self.anchor_sizes) != 5:
            raise ValueError(f"anchor_sizes needs 5 sizes, P2..P6; got {len(self.anchor_sizes)}")
        if not self.anchor_ratios:
            raise ValueError("anchor_ratios needs at least one ratio")
        return self

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> "RpnConfig":
        if self.negative_iou > self.positive_iou:
            raise ValueError(
                f"negative_iou {self.negative_iou} is above positive_iou {self.positive_iou}"
            )
        return self


class BoxHeadConfig(Settings):
    """Classification and box regression per ROI (Girshick 2015)."""

    hidden: Positive = Field(1024, description="Width of the two fully connected layers.")
    pool_side: Positive = Field(7, description="ROI align output side.")
    positive_iou: Fraction = Field(0.5, description="A proposal at or above this is an object.")
    samples_per_image: Positive = Field(512, description="Proposals sampled for the loss.")
    positive_fraction: Fraction = Field(0.25, description="Largest share of positive samples.")
    delta_weights: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (10.0, 10.0, 5.0, 5.0), description="Scale of the dx, dy, dw, dh regression targets."
    )
    score_threshold: Fraction = Field(0.05, description="Detections below this are dropped.")
    nms_iou: Fraction = Field(0.5, description="Overlap of same-class detections for NMS.")
    detections_per_image: Positive = Field(100, description="At most this many, best first.")


class MaskHeadConfig(Settings):
    """Fully convolutional mask branch (He et al. 2017)."""

    channels: Positive = Field(256, description="Channels of its convolutions.")
    layers: Positive = Field(4, description="3x3 convolutions before the upsampling.")
    pool_side: Positive = Field(14, description="ROI align output side; masks are twice as large.")
    threshold: Fraction = Field(0.5, description="Probability at which a pixel is object.")


class KeypointHeadConfig(Settings):
    """Keypoint branch (He et al. 2017, section 5)."""

    names: tuple[str, ...] = Field(
        COCO_PERSON_KEYPOINTS, description="The points of an object, in the data set's order."
    )


class ModelConfig(Settings):
    """The whole detector."""

    num_classes: Positive = Field(80, description="Object classes, without the background.")
    conventions: Conventions = Conventions()
    input: InputConfig = InputConfig()
    backbone: BackboneConfig = BackboneConfig()
    rpn: RpnConfig = RpnConfig()
    box: BoxHeadConfig = BoxHeadConfig()
    mask: MaskHeadConfig | None = Field(
        MaskHeadConfig(), description="The mask branch; null makes it Faster R-CNN."
    )
    keypoint: KeypointHeadConfig | None = Field(None, description="The keypoint branch.")
