"""Every setting that shapes the detector, as one frozen, validated tree.

Defaults are Mask R-CNN with ResNet-50-FPN as published (He et al. 2017; Lin et al. 2017), with the
constants of Detectron's 1x schedule. Settings stop at the constructors: layers take plain values.
"""

from pydantic import Field, model_validator

from model.config.backbone import BackboneConfig, FpnConfig, InputConfig
from model.config.conventions import (
    DETECTRON,
    DETECTRON2,
    MASKRCNN_BENCHMARK,
    TORCHVISION,
    Conventions,
)
from model.config.heads import BoxHeadConfig, KeypointHeadConfig, MaskHeadConfig
from model.config.keypoint_names import flip_order
from model.config.retinanet import RetinaNetConfig
from model.config.rpn import RpnConfig
from model.config.settings import Positive, Settings
from model.config.test_augmentation import TestAugmentationConfig

__all__ = [
    "DETECTRON",
    "DETECTRON2",
    "MASKRCNN_BENCHMARK",
    "TORCHVISION",
    "BackboneConfig",
    "BoxHeadConfig",
    "Conventions",
    "FpnConfig",
    "InputConfig",
    "KeypointHeadConfig",
    "MaskHeadConfig",
    "ModelConfig",
    "RetinaNetConfig",
    "RpnConfig",
    "TestAugmentationConfig",
]


class ModelConfig(Settings):
    """The whole detector: which heads it has makes it what it is."""

    num_classes: Positive = Field(80, description="Object classes, without the background.")
    conventions: Conventions = Conventions()
    input: InputConfig = InputConfig()
    backbone: BackboneConfig = BackboneConfig()
    fpn: FpnConfig = FpnConfig()
    rpn: RpnConfig = RpnConfig()
    box: BoxHeadConfig | None = Field(
        BoxHeadConfig(), description="The box head; null leaves a proposal network alone."
    )
    mask: MaskHeadConfig | None = Field(
        MaskHeadConfig(), description="The mask branch; null makes it Faster R-CNN."
    )
    keypoint: KeypointHeadConfig | None = Field(
        None, description="The keypoint branch; given, it is Keypoint R-CNN."
    )
    retinanet: RetinaNetConfig | None = Field(
        None, description="Given, it is RetinaNet; box, mask and keypoint must be null then."
    )
    test_augmentation: TestAugmentationConfig | None = Field(
        None,
        description="Given, pictures are looked at in several sizes and mirrored: slower, better.",
    )

    @property
    def is_proposal_network(self) -> bool:
        """Whether it finds objects without telling their class."""
        return self.box is None and self.retinanet is None

    @model_validator(mode="after")
    def _heads_agree(self) -> "ModelConfig":
        branches = [name for name in ("mask", "keypoint") if getattr(self, name) is not None]
        if self.retinanet is not None:
            heads = [*(["box"] if self.box is not None else []), *branches]
            if heads:
                raise ValueError(f"RetinaNet has no ROI heads: set {' and '.join(heads)} to null")
            if self.backbone.features != "fpn":
                raise ValueError("RetinaNet needs backbone.features = fpn")
        elif self.box is None and branches:
            raise ValueError(f"{' and '.join(branches)} need the box head: box is null")
        if self.keypoint is not None and self.backbone.features == "c4":
            raise ValueError("a keypoint branch needs a pyramid or c5: backbone.features is c4")
        return self

    @model_validator(mode="after")
    def _mirrored_keypoints_have_names(self) -> "ModelConfig":
        if self.keypoint is not None and self.test_augmentation and self.test_augmentation.flip:
            flip_order(self.keypoint.names)  # says which name has no counterpart
        return self

    @model_validator(mode="after")
    def _res5_halves_its_maps(self) -> "ModelConfig":
        if self.backbone.features == "c4" and self.box is not None and self.box.pool_side % 2:
            raise ValueError(
                f"box.pool_side must be even where res5 halves it (backbone.features is c4), 14 as "
                f"published; got {self.box.pool_side}"
            )
        return self

    @model_validator(mode="after")
    def _one_anchor_size_per_level(self) -> "ModelConfig":
        sizes = len(self.rpn.anchor_sizes)
        if self.retinanet is None and self.backbone.features == "fpn" and sizes != 5:
            raise ValueError(f"rpn.anchor_sizes needs 5 sizes, P2..P6; got {sizes}")
        return self
