"""Settings of RetinaNet, the one-stage detector."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.settings import ClassWeights, Fraction, Positive, PositiveFloat, Settings


class RetinaNetConfig(Settings):
    """RetinaNet (Lin et al. 2017, "Focal loss"): classes and boxes in every cell of P3..P7."""

    p6_from: Literal["c5", "p5"] = Field("c5", description="The feature map that P6 is made from.")
    layers: Positive = Field(4, description="3x3 convolutions in each tower.")
    norm: Literal["none", "group_norm"] = Field(
        "none", description="Normalization after each convolution of the towers."
    )
    anchor_sizes: tuple[PositiveFloat, ...] = Field(
        (32.0, 64.0, 128.0, 256.0, 512.0), description="Smallest anchor size of P3..P7, pixels."
    )
    anchor_scales: Positive = Field(
        3, description="Anchor sizes per level, spread evenly over an octave."
    )
    anchor_ratios: tuple[PositiveFloat, ...] = Field(
        (0.5, 1.0, 2.0), description="Height / width of the anchors."
    )
    positive_iou: Fraction = Field(0.5, description="Anchors with at least this IoU are positive.")
    negative_iou: Fraction = Field(
        0.4,
        description="Anchors below this IoU are negative; between the two thresholds they are "
        "ignored.",
    )
    focal_alpha: Fraction = Field(0.25, description="Focal loss: weight of positive anchors.")
    focal_gamma: float = Field(
        2.0, ge=0.0, description="Focal loss: exponent that down-weights easy anchors."
    )
    class_weights: ClassWeights = Field(
        {},
        description="Name of a class -> weight of its objects in the focal loss; others, and the "
        "background, have 1. null removes what a base file states.",
    )
    prior: Fraction = Field(0.01, description="Score of every anchor at initialization.")
    delta_weights: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        (1.0, 1.0, 1.0, 1.0), description="Scale of the dx, dy, dw, dh regression targets."
    )
    box_loss: Literal["smooth_l1", "giou"] = Field(
        "smooth_l1",
        description="smooth_l1 of the box deltas, or generalized IoU of the boxes (Rezatofighi et "
        "al. 2019; torchvision's v2).",
    )
    smooth_l1_beta: float = Field(
        0.0, ge=0.0, description="Beta of the smooth L1 box loss; 0 is plain L1."
    )
    box_loss_weight: PositiveFloat = Field(1.0, description="Weight of the box loss.")
    score_threshold: Fraction = Field(0.05, description="Minimum score of a detection.")
    pre_nms: Positive = Field(1000, description="Candidates per level before NMS.")
    nms_iou: Fraction = Field(0.5, description="IoU threshold of NMS, applied per class.")
    detections_per_image: Positive = Field(
        100, description="Maximum number of detections, highest scores first."
    )

    @model_validator(mode="after")
    def _anchors_and_thresholds_are_valid(self) -> "RetinaNetConfig":
        if len(self.anchor_sizes) != 5:
            raise ValueError(f"anchor_sizes needs 5 sizes, P3..P7; got {len(self.anchor_sizes)}")
        if not self.anchor_ratios:
            raise ValueError("anchor_ratios needs at least one ratio")
        if self.negative_iou > self.positive_iou:
            raise ValueError(
                f"negative_iou {self.negative_iou} is above positive_iou {self.positive_iou}"
            )
        return self
