"""What is asked of each region of interest."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.backbone import OptionalNorm
from model.config.keypoint_names import COCO_PERSON_KEYPOINTS
from model.config.settings import Fraction, NonNegative, Positive, PositiveFloat, Settings


class BoxHeadConfig(Settings):
    """Classification and box regression per ROI (Girshick 2015)."""

    conv_layers: NonNegative = Field(
        0, description="3x3 convolutions before the fully connected layers; 4 in 4conv1fc."
    )
    conv_channels: Positive = Field(256, description="Channels of those convolutions.")
    fc_layers: Positive = Field(2, description="Hidden fully connected layers; 1 in 4conv1fc.")
    hidden: Positive = Field(1024, description="Width of the fully connected layers.")
    norm: OptionalNorm = Field("none", description="After each of its convolutions.")
    fc_norm: Literal["none", "group_norm"] = Field(
        "none", description="After each fully connected layer (maskrcnn-benchmark's gn_baselines)."
    )
    class_agnostic: bool = Field(False, description="One box per ROI instead of one per class.")
    pool_side: Positive = Field(7, description="ROI align output side; 14 before res5 (c4).")
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
    layers: NonNegative = Field(
        4,
        description="3x3 convolutions before the upsampling; with c4 it reads res5's maps and "
        "has none.",
    )
    norm: OptionalNorm = Field("none", description="After each of those convolutions.")
    class_agnostic: bool = Field(False, description="One mask per ROI instead of one per class.")
    pool_side: Positive = Field(
        14,
        description="ROI align output side; masks are twice as large. With c4 the box head's "
        "pool_side counts instead, which res5 halves.",
    )
    threshold: Fraction = Field(0.5, description="Probability at which a pixel is object.")


class KeypointHeadConfig(Settings):
    """Keypoint branch (He et al. 2017, section 5)."""

    names: tuple[str, ...] = Field(
        COCO_PERSON_KEYPOINTS,
        description="Keypoints in the data's order; left_x and right_x change places in a flip.",
    )
    channels: Positive = Field(512, description="Channels of its convolutions.")
    layers: Positive = Field(8, description="3x3 convolutions before the upsampling.")
    pool_side: Positive = Field(
        14, description="ROI align output side; heatmaps are four times as large."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> "KeypointHeadConfig":
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError("names needs at least one keypoint, and no name twice")
        return self
