"""RetinaNet's weights: torchvision's names, our folders, and other classes."""

import re

import pytest
import torch
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from model import Category, ModelConfig, build_detector, load_detector, save_detector
from model.weights import WeightsError, load_weights
from model.weights.architecture.detector import infer_architecture
from model.weights.classes import sparse_coco_categories

FROZEN = {"depth": 18, "norm": "frozen_bn", "width": 16, "frozen_stages": 0}


@pytest.fixture
def build(tiny_config):
    def build(*names):
        categories = [Category(i, name) for i, name in enumerate(names, start=1)]
        retinanet = {"anchor_sizes": (8, 16, 32, 48, 64), "layers": 2, "norm": "group_norm"}
        config = tiny_config(
            num_classes=len(names), box=None, mask=None, retinanet=retinanet, backbone=FROZEN
        )
        detector = build_detector(config, categories)
        for parameter in detector.parameters():
            torch.nn.init.normal_(parameter)
        return detector

    return build


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return RetinaNet(backbone, num_classes=91).state_dict()


def test_the_names_of_older_files_are_understood(theirs, tmp_path):
    torch.save(theirs, tmp_path / "new.pth")
    # the towers as they were: a ReLU after each convolution, numbered too
    older = {
        re.sub(r"(_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", name): tensor
        for name, tensor in theirs.items()
    }
    assert "head.regression_head.conv.6.weight" in older
    torch.save(older, tmp_path / "old.pth")
    new, old = (load_detector(tmp_path / f"{age}.pth") for age in ("new", "old"))
    for name, tensor in new.state_dict().items():
        assert tensor.equal(old.state_dict()[name])


def test_their_background_is_left_out_and_labels_are_coco_s_ids(theirs, tmp_path):
    torch.save(theirs, tmp_path / "theirs.pth")
    detector = load_detector(tmp_path / "theirs.pth", score_threshold=0.2, detections_per_image=300)
    assert detector.categories == tuple(sparse_coco_categories())
    rows = theirs["head.classification_head.cls_logits.weight"].view(9, 91, 256, 3, 3)
    ours = detector.retinanet.class_logits.weight.view(9, 90, 256, 3, 3)
    for anchor, label in ((0, 1), (4, 17), (8, 90)):
        assert ours[anchor, label - 1].equal(rows[anchor, label])
    config = detector.config
    assert (config.box, config.mask, config.retinanet.p6_from) == (None, None, "p5")
    assert (config.retinanet.layers, config.retinanet.anchor_scales) == (4, 3)
    assert config.retinanet.score_threshold == 0.2
    assert config.retinanet.detections_per_image == 300
    with pytest.raises(TypeError, match="no mask head"):
        load_detector(tmp_path / "theirs.pth", mask_threshold=0.2)
    with pytest.raises(TypeError, match="RetinaNet has no proposals"):
        load_detector(tmp_path / "theirs.pth", proposals=100)


def test_a_saved_detector_loads_as_it_was(build, tmp_path):
    detector = build("cat", "dog")
    save_detector(detector, tmp_path)
    loaded = load_detector(tmp_path)
    assert loaded.config == detector.config
    for name, tensor in loaded.state_dict().items():
        assert tensor.equal(detector.state_dict()[name])


def test_a_class_of_the_same_name_keeps_its_rows_at_every_anchor(build, tmp_path):
    source, ours = build("cat", "dog", "owl"), build("fox", "owl", "cat", "yak")
    save_detector(source, tmp_path)
    before = ours.retinanet.class_logits.weight.clone().view(9, 4, 32, 3, 3)
    report = load_weights(ours, tmp_path)
    assert (report.kept_classes, report.fresh_classes) == (("owl", "cat"), ("fox", "yak"))
    theirs = source.retinanet.class_logits
    weight = theirs.weight.view(9, 3, 32, 3, 3)
    found = ours.retinanet.class_logits.weight.view(9, 4, 32, 3, 3)
    assert found[:, 1].equal(weight[:, 2])
    assert found[:, 2].equal(weight[:, 0])
    assert found[:, [0, 3]].equal(before[:, [0, 3]])
    bias = ours.retinanet.class_logits.bias.view(9, 4)
    assert bias[:, [2, 1]].equal(theirs.bias.view(9, 3)[:, [0, 2]])
    assert ours.retinanet.box_deltas.weight.equal(source.retinanet.box_deltas.weight)


def test_classes_without_a_common_name_start_anew(build, tmp_path):
    save_detector(build("cat", "dog", "owl"), tmp_path)
    ours = build("fox")
    before = ours.retinanet.class_logits.bias.clone()
    assert load_weights(ours, tmp_path).fresh_classes == ("fox",)
    assert ours.retinanet.class_logits.bias.equal(before)
    with pytest.raises(WeightsError, match=r"retinanet\.class_logits\.weight"):
        load_weights(ours, tmp_path, allow_mismatch=False)


def test_the_architecture_is_read_from_names_and_shapes(build):
    detector = build("cat", "dog")
    found = infer_architecture(detector.state_dict(), ModelConfig(), detector.config.conventions)
    wanted = detector.config.retinanet
    assert found.num_classes == 2
    assert found.retinanet.model_copy(update={"anchor_sizes": wanted.anchor_sizes}) == wanted
    assert (found.box, found.mask) == (None, None)


def test_anchors_that_no_scale_explains_are_refused(build):
    config = ModelConfig(box=None, mask=None, retinanet={"anchor_ratios": (0.5, 2.0)})
    detector = build("cat")
    with pytest.raises(WeightsError, match=r"9 anchors per cell .* set model\.retinanet\.anchor"):
        infer_architecture(detector.state_dict(), config, detector.config.conventions)
