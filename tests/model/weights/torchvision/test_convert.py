"""torchvision's weights: names old and new, order of classes, and the inferred architecture."""

import re

import pytest
import torch
import torchvision
from torchvision.models.detection import RetinaNet, keypointrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from model import Category, ModelConfig, build_detector
from model.config import KeypointHeadConfig
from model.weights import load_network, load_weights
from model.weights.coco_categories import sparse_coco_categories
from model.weights.storage.weights_file import StoredWeights
from model.weights.torchvision.convert import convert_torchvision


def test_a_classifier_fills_the_backbone(tiny_config, tmp_path):
    classifier = torchvision.models.resnet18()
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    config = tiny_config(backbone={"depth": 18, "norm": "frozen_bn"})
    detector = build_detector(config)
    report = load_weights(detector, tmp_path / "resnet18.pth")
    assert set(report.loaded) == {f"backbone.{n}" for n in detector.backbone.state_dict()}
    assert report.ignored.keys() == {"fc.weight", "fc.bias"}
    assert not report.unexpected_keys
    assert detector.backbone.conv1.weight.equal(classifier.conv1.weight)


@pytest.mark.parametrize("old_names", [False, True])
def test_the_architecture_of_mask_r_cnn_is_inferred_from_shapes(tmp_path, old_names):
    reference = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=91
    )
    state = reference.state_dict()
    if old_names:
        state = {_older(n): t for n, t in state.items() if "num_batches_tracked" not in n}
    torch.save(state, tmp_path / "reference.pth")
    given = ModelConfig.model_validate({"num_classes": 80, "box": {"score_threshold": 0.2}})
    detector = load_network(
        tmp_path / "reference.pth",
        given,
        conventions={"roi_aligned": True},
        short_side=320,
        long_side=512,
    )
    config = detector.config
    assert (config.num_classes, config.backbone.depth, config.box.hidden) == (90, 50, 1024)
    assert config.mask.layers == 4
    assert detector.categories[0] == Category(1, "person")
    assert detector.categories[-1] == Category(90, "toothbrush")
    assert config.box.score_threshold == 0.2
    assert config.input.short_side == 320
    assert config.conventions.round_anchors
    assert config.conventions.roi_aligned  # stated by the caller
    # v1 weights come from a frozen norm without epsilon; a trained norm has one.
    assert config.conventions.norm_epsilon == (0.0 if old_names else 1e-5)
    assert config.backbone.norm == ("frozen_bn" if old_names else "batch_norm")


def _older(name):
    for new, old in (
        ("rpn.head.conv.0.0.", "rpn.head.conv."),
        *((f"inner_blocks.{i}.0.", f"inner_blocks.{i}.") for i in range(4)),
        *((f"layer_blocks.{i}.0.", f"layer_blocks.{i}.") for i in range(4)),
        *(
            (f"roi_heads.mask_head.{i}.0.", f"roi_heads.mask_head.mask_fcn{i + 1}.")
            for i in range(4)
        ),
    ):
        name = name.replace(new, old)
    return name


def test_the_architecture_of_keypoint_r_cnn_is_inferred_from_shapes():
    with torch.device("meta"):
        reference = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    converted = convert_torchvision(StoredWeights(reference.state_dict()), ModelConfig())
    config = converted.config
    assert (config.num_classes, config.mask) == (1, None)
    assert config.keypoint == KeypointHeadConfig()
    assert converted.categories == [Category(1, "person")]
    with torch.device("meta"):
        ours = build_detector(config).state_dict()
    assert {n: t.shape for n, t in converted.tensors.items()} == {
        n: t.shape for n, t in ours.items()
    }


@pytest.fixture(scope="module")
def retinanet():
    """The state dict of torchvision's RetinaNet."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return RetinaNet(backbone, num_classes=91).state_dict()


def test_old_names_of_retinanet_are_recognized(retinanet, tmp_path):
    torch.save(retinanet, tmp_path / "new.pth")
    # The towers as they were: a ReLU after each convolution, numbered too.
    older = {
        re.sub(r"(_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", name): tensor
        for name, tensor in retinanet.items()
    }
    assert "head.regression_head.conv.6.weight" in older
    torch.save(older, tmp_path / "old.pth")
    new, old = (load_network(tmp_path / f"{age}.pth") for age in ("new", "old"))
    for name, tensor in new.state_dict().items():
        assert tensor.equal(old.state_dict()[name])


def test_the_background_of_retinanet_is_dropped_and_its_labels_are_coco_ids(retinanet, tmp_path):
    torch.save(retinanet, tmp_path / "reference.pth")
    detector = load_network(
        tmp_path / "reference.pth", score_threshold=0.2, detections_per_image=300
    )
    assert detector.categories == tuple(sparse_coco_categories())
    rows = retinanet["head.classification_head.cls_logits.weight"].view(9, 91, 256, 3, 3)
    ours = detector.retinanet.class_logits.weight.view(9, 90, 256, 3, 3)
    for anchor, label in ((0, 1), (4, 17), (8, 90)):
        assert ours[anchor, label - 1].equal(rows[anchor, label])
    config = detector.config
    assert (config.box, config.mask, config.retinanet.p6_from) == (None, None, "p5")
    assert (config.retinanet.layers, config.retinanet.anchor_scales) == (4, 3)
    assert config.retinanet.score_threshold == 0.2
    assert config.retinanet.detections_per_image == 300
    with pytest.raises(TypeError, match="no mask head"):
        load_network(tmp_path / "reference.pth", mask_threshold=0.2)
    with pytest.raises(TypeError, match="RetinaNet has no proposals"):
        load_network(tmp_path / "reference.pth", proposals=100)
