"""Weights of Keypoint R-CNN: which detector they are for, and what fine-tuning keeps of them."""

import pytest
import torch
from torchvision.models.detection import (
    KeypointRCNN_ResNet50_FPN_Weights,
    keypointrcnn_resnet50_fpn,
)

from model import Category, ModelConfig, build_detector, save_detector
from model.config import KeypointHeadConfig
from model.weights import WeightsError, load_weights
from model.weights.conversion import StoredWeights
from model.weights.torchvision.convert import convert_torchvision


def convert(config=None, **options):
    """What becomes of torchvision's whole model, whose shapes say everything."""
    with torch.device("meta"):
        theirs = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None, **options)
    return convert_torchvision(StoredWeights(theirs.state_dict()), config or ModelConfig())


def test_torchvision_s_keypoint_detector_is_read_from_its_shapes():
    conversion = convert()
    config = conversion.config
    assert (config.num_classes, config.mask) == (1, None)
    assert config.keypoint == KeypointHeadConfig()
    assert conversion.categories == [Category(1, "person")]
    with torch.device("meta"):
        ours = build_detector(config).state_dict()
    assert {n: t.shape for n, t in conversion.tensors.items()} == {
        n: t.shape for n, t in ours.items()
    }


def test_the_default_keypoints_are_those_of_coco_s_persons():
    names = KeypointRCNN_ResNet50_FPN_Weights.COCO_V1.meta["keypoint_names"]
    assert list(KeypointHeadConfig().names) == names


def test_keypoints_of_another_number_are_named_by_the_config_or_numbered():
    numbered = convert(num_keypoints=3, num_classes=2)
    assert numbered.config.keypoint.names == ("keypoint_1", "keypoint_2", "keypoint_3")
    assert numbered.categories == ()
    names = ("left_wing", "right_wing", "tail")
    given = ModelConfig(keypoint=KeypointHeadConfig(names=names, channels=64, pool_side=7))
    keypoint = convert(given, num_keypoints=3).config.keypoint
    assert keypoint == KeypointHeadConfig(names=names, channels=512, pool_side=7)


def test_classes_of_other_names_keep_the_keypoint_head(tiny_config, keypoint_head, tmp_path):
    def build(*names, **changes):
        categories = [Category(i, name) for i, name in enumerate(names, start=1)]
        config = tiny_config(num_classes=len(names), mask=None, keypoint=keypoint_head | changes)
        return build_detector(config, categories)

    source, ours = build("person"), build("cat", "person", "dog")
    save_detector(source, tmp_path)
    report = load_weights(ours, tmp_path)
    assert report.kept_classes == ("person",)
    for own, other in zip(
        ours.roi_heads.keypoint.parameters(), source.roi_heads.keypoint.parameters(), strict=True
    ):
        assert own.equal(other)
    with pytest.raises(
        WeightsError, match=r"keypoint\.upsample\.weight \(16, 1, 4, 4\) <- \(16, 3"
    ):
        load_weights(build("person", names=("nose",)), tmp_path)
