"""ModelConfig: the root of the detector's settings."""

from pydantic import Field, model_validator

from model.config.backbone import BackboneConfig, FpnConfig, InputConfig
from model.config.conventions import Conventions
from model.config.heads import BoxHeadConfig, KeypointHeadConfig, MaskHeadConfig
from model.config.keypoint_names import flip_order
from model.config.retinanet import RetinaNetConfig
from model.config.rpn import RpnConfig
from model.config.settings import Positive, Settings
from model.config.test_augmentation import TestAugmentationConfig
from model.config.tiles import TilesConfig


class ModelConfig(Settings):
    """The whole detector; the heads that are not null determine its kind."""

    num_classes: Positive = Field(80, description="Number of object classes, without background.")
    conventions: Conventions = Conventions()
    input: InputConfig = InputConfig()
    backbone: BackboneConfig = BackboneConfig()
    fpn: FpnConfig = FpnConfig()
    rpn: RpnConfig = RpnConfig()
    box: BoxHeadConfig | None = Field(
        BoxHeadConfig(), description="Box head; null leaves only the region proposal network."
    )
    mask: MaskHeadConfig | None = Field(
        MaskHeadConfig(), description="Mask head; null makes the detector a Faster R-CNN."
    )
    keypoint: KeypointHeadConfig | None = Field(
        None, description="Keypoint head; {} makes the detector a Keypoint R-CNN."
    )
    retinanet: RetinaNetConfig | None = Field(
        None,
        description="RetinaNet head; {} makes the detector a RetinaNet, and box, mask and keypoint "
        "must be null.",
    )
    test_augmentation: TestAugmentationConfig | None = Field(
        None,
        description="Test-time augmentation; {} predicts on several sizes of each image, plain and "
        "flipped: slower, more accurate.",
    )
    tiles: TilesConfig | None = Field(
        None,
        description="Tiled inference on large images; {} predicts on overlapping tiles at their "
        "full resolution and joins the results: for objects that are small in their images.",
    )

    @property
    def is_proposal_network(self) -> bool:
        """Whether the model only proposes regions, without classes."""
        return self.box is None and self.retinanet is None

    @model_validator(mode="after")
    def _heads_are_compatible(self) -> "ModelConfig":
        roi_heads = [name for name in ("mask", "keypoint") if getattr(self, name) is not None]
        if self.retinanet is not None:
            heads = [*(["box"] if self.box is not None else []), *roi_heads]
            if heads:
                raise ValueError(f"RetinaNet has no ROI heads: set {' and '.join(heads)} to null")
            if self.backbone.features != "fpn":
                raise ValueError("RetinaNet needs backbone.features = fpn")
        elif self.box is None and roi_heads:
            raise ValueError(f"{' and '.join(roi_heads)} need the box head, but box is null")
        if self.keypoint is not None and self.backbone.features == "c4":
            raise ValueError("a keypoint head needs backbone.features = fpn, c5 or dc5; got c4")
        return self

    @model_validator(mode="after")
    def _proposals_are_not_merged(self) -> "ModelConfig":
        if self.tiles is not None:
            self.tiles.check_classes(not self.is_proposal_network)
        return self

    @model_validator(mode="after")
    def _keypoints_can_be_flipped(self) -> "ModelConfig":
        if self.keypoint is not None and self.test_augmentation and self.test_augmentation.flip:
            flip_order(self.keypoint.names)  # raises if a name has no counterpart
        return self

    @model_validator(mode="after")
    def _res5_halves_an_even_side(self) -> "ModelConfig":
        if self.backbone.features == "c4" and self.box is not None and self.box.pool_side % 2:
            raise ValueError(
                "box.pool_side must be even with backbone.features = c4, where res5 halves it: "
                f"14 as published; got {self.box.pool_side}"
            )
        return self

    @model_validator(mode="after")
    def _other_backbones_have_whole_maps(self) -> "ModelConfig":
        if not self.backbone.is_resnet and self.input.size_divisor % 32:
            raise ValueError(
                "input.size_divisor must be a multiple of 32 with backbone.timm or "
                f"backbone.function; got {self.input.size_divisor}"
            )
        return self

    @model_validator(mode="after")
    def _each_level_has_an_anchor_size(self) -> "ModelConfig":
        sizes = len(self.rpn.anchor_sizes)
        if self.retinanet is None and self.backbone.features == "fpn" and sizes != 5:
            raise ValueError(f"rpn.anchor_sizes needs 5 sizes, P2..P6; got {sizes}")
        return self
