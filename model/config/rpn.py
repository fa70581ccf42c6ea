"""Settings of the region proposal network."""

from pydantic import Field, model_validator

from model.config.settings import Fraction, Positive, PositiveFloat, Settings


class RpnConfig(Settings):
    """Region proposal network (Ren et al. 2015); unused by RetinaNet."""

    anchor_sizes: tuple[PositiveFloat, ...] = Field(
        (32.0, 64.0, 128.0, 256.0, 512.0),
        description="Anchor sizes, pixels: one per level P2..P6; without a pyramid, all on the one "
        "feature map.",
    )
    anchor_ratios: tuple[PositiveFloat, ...] = Field(
        (0.5, 1.0, 2.0), description="Height / width of the anchors."
    )
    layers: Positive = Field(1, description="3x3 convolutions in the head.")
    positive_iou: Fraction = Field(0.7, description="Anchors with at least this IoU are positive.")
    negative_iou: Fraction = Field(
        0.3,
        description="Anchors below this IoU are negative; between the two thresholds they are "
        "ignored.",
    )
    samples_per_image: Positive = Field(256, description="Anchors sampled for the loss.")
    positive_fraction: Fraction = Field(0.5, description="Maximum fraction of positive samples.")
    nms_iou: Fraction = Field(0.7, description="IoU threshold of NMS.")
    pre_nms_train: Positive = Field(2000, description="Proposals per level before NMS, training.")
    pre_nms_test: Positive = Field(1000, description="Proposals per level before NMS, inference.")
    post_nms_train: Positive = Field(2000, description="Proposals per image after NMS, training.")
    post_nms_test: Positive = Field(1000, description="Proposals per image after NMS, inference.")
    min_box_side: float = Field(
        0.0, ge=0.0, description="Proposals with a shorter side are discarded, pixels."
    )

    @model_validator(mode="after")
    def _has_anchors(self) -> "RpnConfig":
        if not self.anchor_ratios or not self.anchor_sizes:
            raise ValueError("anchor_sizes and anchor_ratios need at least one value each")
        return self

    @model_validator(mode="after")
    def _thresholds_are_ordered(self) -> "RpnConfig":
        if self.negative_iou > self.positive_iou:
            raise ValueError(
                f"negative_iou {self.negative_iou} is above positive_iou {self.positive_iou}"
            )
        return self
