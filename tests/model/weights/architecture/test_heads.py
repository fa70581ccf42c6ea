import torch
from torchvision.models.detection import (
    KeypointRCNN_ResNet50_FPN_Weights,
    keypointrcnn_resnet50_fpn,
)

from model import ModelConfig
from model.config import KeypointHeadConfig
from model.weights.storage.weights_file import StoredWeights
from model.weights.torchvision.convert import convert_torchvision


def convert(config=None, **options):
    """Convert torchvision's Keypoint R-CNN, with random weights: only shapes are read."""
    with torch.device("meta"):
        reference = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, **options)
    return convert_torchvision(StoredWeights(reference.state_dict()), config or ModelConfig())


def test_keypoints_are_named_by_a_config_with_as_many_or_else_numbered():
    numbered = convert(num_keypoints=3, num_classes=2)
    assert numbered.config.keypoint.names == ("keypoint_1", "keypoint_2", "keypoint_3")
    assert numbered.categories == ()
    names = ("left_wing", "right_wing", "tail")
    given = ModelConfig(keypoint=KeypointHeadConfig(names=names, channels=64, pool_side=7))
    keypoint = convert(given, num_keypoints=3).config.keypoint
    assert keypoint == KeypointHeadConfig(names=names, channels=512, pool_side=7)


def test_the_default_keypoint_names_match_torchvision():
    names = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["keypoint_names"]
    assert list(KeypointHeadConfig().names) == names
