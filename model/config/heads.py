"""Settings of the ROI heads: box, mask and keypoint."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.backbone import OptionalNorm
from model.config.keypoint_names import COCO_PERSON_KEYPOINTS
from model.config.settings import (
    ClassWeights,
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    Settings,
)


class BoxHeadConfig(Settings):
    """Classification and box regression per ROI (Girshick 2015)."""

    conv_layers: NonNegative = Field(
        0, description="3x3 convolutions before the fully connected layers; 4 in 4conv1fc."
    )
    conv_channels: Positive = Field(256, description="Channels of those convolutions.")
    fc_layers: Positive = Field(2, description="Hidden fully connected layers; 1 in 4conv1fc.")
    hidden: Positive = Field(1024, description="Width of the fully connected layers.")
    norm: OptionalNorm = Field("none", description="Normalization after each convolution.")
    fc_norm: Literal["none", "group_norm"] = Field(
        "none",
        description="Normalization after each fully connected layer (maskrcnn-benchmark's "
        "gn_baselines).",
    )
    class_agnostic: bool = Field(False, description="Predict one box per ROI, not one per class.")
    pool_side: Positive = Field(7, description="Output size of ROI align; 14 before res5 (c4).")
    positive_iou: Fraction = Field(
        0.5, description="Proposals with at least this IoU are positive, all others negative."
    )
    samples_per_image: Positive = Field(512, description="Proposals sampled for the loss.")
    positive_fraction: Fraction = Field(0.25, description="Maximum fraction of positive samples.")
    delta_weights: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (10.0, 10.0, 5.0, 5.0), description="Scale of the dx, dy, dw, dh regression targets."
    )
    class_weights: ClassWeights = Field(
        {},
        description="Name of a class -> weight of its objects in the classification loss; others, "
        "and the background, have 1. For rare classes, beside data.repeat_threshold. null removes "
        "what a base file states.",
    )
    score_threshold: Fraction = Field(0.05, description="Minimum score of a detection.")
    nms_iou: Fraction = Field(0.5, description="IoU threshold of NMS, applied per class.")
    detections_per_image: Positive = Field(
        100, description="Maximum number of detections, highest scores first."
    )


class MaskHeadConfig(Settings):
    """Fully convolutional mask head (He et al. 2017)."""

    channels: Positive = Field(256, description="Channels of the convolutions.")
    layers: NonNegative = Field(
        4,
        description="3x3 convolutions before the upsampling; none with c4, where the head reads "
        "the output of res5.",
    )
    norm: OptionalNorm = Field("none", description="Normalization after each convolution.")
    class_agnostic: bool = Field(False, description="Predict one mask per ROI, not one per class.")
    pool_side: Positive = Field(
        14,
        description="Output size of ROI align; masks are twice as large. Unused with c4, where "
        "res5 halves the box head's pool_side.",
    )
    threshold: Fraction = Field(
        0.5, description="Probability above which a pixel belongs to the object."
    )


class KeypointHeadConfig(Settings):
    """Keypoint head (He et al. 2017, section 5)."""

    names: tuple[str, ...] = Field(
        COCO_PERSON_KEYPOINTS,
        description="Keypoint names in the order of the data; a flip swaps left_x and right_x.",
    )
    channels: Positive = Field(512, description="Channels of the convolutions.")
    layers: Positive = Field(8, description="3x3 convolutions before the upsampling.")
    pool_side: Positive = Field(
        14, description="Output size of ROI align; heatmaps are four times as large."
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> "KeypointHeadConfig":
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError("names needs at least one keypoint, and every name only once")
        return self
