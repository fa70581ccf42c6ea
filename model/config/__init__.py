"""Settings of the detector: ``ModelConfig``, a frozen and validated tree with one file per part.

The defaults are Mask R-CNN with ResNet-50-FPN as published (He et al. 2017; Lin et al. 2017), with
the constants of Detectron's 1x schedule. Config stops at constructors: layers take plain values.
"""

from model.config.backbone import BackboneConfig, FpnConfig, InputConfig
from model.config.conventions import (
    DETECTRON,
    DETECTRON2,
    MASKRCNN_BENCHMARK,
    MMDETECTION,
    TORCHVISION,
    Conventions,
)
from model.config.heads import BoxHeadConfig, KeypointHeadConfig, MaskHeadConfig
from model.config.model import ModelConfig
from model.config.retinanet import RetinaNetConfig
from model.config.rpn import RpnConfig
from model.config.test_augmentation import TestAugmentationConfig
from model.config.tiles import TilesConfig

__all__ = [
    "DETECTRON",
    "DETECTRON2",
    "MASKRCNN_BENCHMARK",
    "MMDETECTION",
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
    "TilesConfig",
]
