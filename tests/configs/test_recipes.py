"""Every recipe loads, builds at its published size, trains a step and predicts."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from model import Predictor, build_detector
from model.config import ModelConfig
from model.preprocess import pad_batch
from model.structures import ImageSize, PolygonMasks, Targets
from pipeline.config import load_config
from pipeline.train.optimizer import build_optimizer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.yaml"))
RECIPES = [name for name in NAMES if not name.startswith("base/")]


def load(name):
    return load_config(CONFIGS / f"{name}.yaml")


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def size_of(config):
    with torch.device("meta"):
        return count_parameters(build_detector(config))


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_valid_and_has_its_own_name(name):
    config = load(name)
    if name in RECIPES:
        assert config.name == name.replace("/", "_")
        assert config.output == str(Path.cwd() / "runs" / name)
    else:
        assert config.name == "run"


@pytest.mark.parametrize("epochs", [100, 200, 400])
def test_recipes_with_large_scale_jitter_take_the_epochs_of_their_name(epochs):
    """As detectron2 counts them: passes over 118,000 images."""
    config = load(f"large_scale_jitter/mask_rcnn_r50_fpn_{epochs}ep")
    train, jitter = config.train, config.data.scale_jitter
    schedule = train.schedule
    assert schedule.steps * train.global_batch == epochs * 118_000
    fractions = [milestone / schedule.steps for milestone in schedule.milestones]
    assert fractions == pytest.approx([8 / 9, 26 / 27], abs=1e-3)
    assert schedule.warmup_steps == 5 * epochs
    assert (train.global_batch, train.optimizer.lr) == (64, 0.1)
    assert (jitter.side, jitter.min_scale, jitter.max_scale) == (1024, 0.1, 2.0)
    model = config.model
    assert (model.backbone.norm, model.fpn.norm) == ("sync_batch_norm",) * 2


def test_the_table_of_counterparts_names_existing_recipes():
    page = (CONFIGS / "README.md").read_text()
    rows = re.findall(r"^\| (`.*\.yaml`) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) > 60
    for originals, here in rows:
        named = re.findall(r"`(\S+)\.yaml`", here)
        assert named or here.startswith(("none", "the same", "an earlier", "earlier")), originals
        assert set(named) <= set(RECIPES), originals


def test_the_example_recipe_composes(tmp_path):
    [example] = re.findall(r"```yaml\n(.*?)```", (CONFIGS / "README.md").read_text(), re.DOTALL)
    (tmp_path / "mine.yaml").write_text(example.replace("configs/", f"{CONFIGS}/"))
    config = load_config(tmp_path / "mine.yaml")
    assert (config.model.backbone.depth, config.train.schedule.steps) == (101, 270_000)
    assert len(config.data.train) == 2
    assert config.model.conventions.legacy_geometry


def architectures():
    """Return one case per set of layers, named after the first recipe that builds it."""
    cases = {}
    for name in NAMES:
        model = load(name).model
        parts = model.model_dump(mode="json", exclude={"conventions", "input"})
        cases.setdefault(json.dumps(parts), pytest.param(model, id=name))
    return list(cases.values())


@pytest.mark.parametrize("config", architectures())
def test_every_detector_builds_at_full_size(config):
    with torch.device("meta"):
        detector = build_detector(config)
    assert {parameter.device.type for parameter in detector.parameters()} == {"meta"}
    assert {name for name in ("mask", "keypoint") if has_head(detector, name)} == {
        name for name in ("mask", "keypoint") if getattr(config, name)
    }


def has_head(detector, name):
    return any(key.startswith(f"roi_heads.{name}.") for key in detector.state_dict())


@pytest.mark.parametrize(
    ("name", "classes", "published"),
    [
        ("torchvision/mask_rcnn_r50_fpn", 90, 44_401_393),
        ("torchvision/faster_rcnn_r50_fpn", 90, 41_755_286),
        ("torchvision/keypoint_rcnn_r50_fpn", 1, 59_137_258),
        # None of its 91 outputs is background.
        ("torchvision/retinanet_r50_fpn", 91, 34_014_999),
        ("torchvision/mask_rcnn_r50_fpn_v2", 90, 46_359_409),
        ("torchvision/faster_rcnn_r50_fpn_v2", 90, 43_712_278),
        ("torchvision/retinanet_r50_fpn_v2", 91, 38_198_935),
        ("mask_rcnn_r50_fpn_1x", 90, 44_401_393),
        ("faster_rcnn_r50_fpn_3x", 90, 41_755_286),
        ("coco_2014/mask_rcnn_r50_fpn_1x", 90, 44_401_393),
        ("retinanet_r50_fpn_p5_1x", 91, 34_014_999),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name, classes, published):
    assert size_of(load(name).model.model_copy(update={"num_classes": classes})) == published


@pytest.mark.parametrize(
    ("name", "backbone", "detector"),
    [
        ("faster_rcnn_r101_fpn_1x", "resnet101", FasterRCNN),
        ("mask_rcnn_r101_fpn_3x", "resnet101", MaskRCNN),
        ("faster_rcnn_x101_32x8d_fpn_1x", "resnext101_32x8d", FasterRCNN),
        ("coco_2014/mask_rcnn_x101_32x8d_fpn_1x", "resnext101_32x8d", MaskRCNN),
    ],
)
def test_deeper_backbones_have_as_many_parameters_as_in_torchvision(name, backbone, detector):
    config = load(name).model
    with torch.device("meta"):
        peer = detector(
            resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=FrozenBatchNorm2d),
            config.num_classes + 1,
        )
    assert size_of(config) == count_parameters(peer)


def narrowed(config):
    """Return the same detector at 1/8 the width and at most 50 layers, for 64-pixel images.

    With random weights and frozen norms, activations would overflow in deeper networks.
    """
    tree = config.model_dump()
    tree["num_classes"] = min(3, config.num_classes)
    tree["input"] |= {"short_side": 64, "long_side": 96}
    backbone = tree["backbone"]
    backbone |= {
        "depth": min(50, backbone["depth"]),
        "width": 8,
        "groups": min(2, backbone["groups"]),
        "group_width": 4,
    }
    # P7 has one cell, and group norm needs two values per group: 64 channels for 32 groups.
    tree["fpn"]["channels"] = 64 if config.retinanet else 16
    tree["rpn"] |= {
        "anchor_sizes": [size / 8 for size in tree["rpn"]["anchor_sizes"]],
        **{f"pre_nms_{mode}": 60 for mode in ("train", "test")},
        **{f"post_nms_{mode}": 30 for mode in ("train", "test")},
        "samples_per_image": 32,
    }
    if tree["box"]:
        tree["box"] |= {"hidden": 64, "conv_channels": 16, "samples_per_image": 16}
        tree["box"]["score_threshold"] = 0.0
    for head in ("mask", "keypoint"):
        if tree[head]:
            tree[head]["channels"] = 16
    if tree["retinanet"]:
        sizes = [size / 8 for size in tree["retinanet"]["anchor_sizes"]]
        tree["retinanet"] |= {"anchor_sizes": sizes, "pre_nms": 60, "score_threshold": 0.0}
    return ModelConfig.model_validate(tree)


def distinct_detectors():
    """Return one case per narrowed detector, named after the first recipe that builds it."""
    cases = {}
    for name in RECIPES:
        config = load(name)
        key = json.dumps(narrowed(config.model).model_dump(mode="json"))
        cases.setdefault(key, pytest.param(config, id=name))
    return list(cases.values())


def example(config):
    """Return an image and two objects, with masks and keypoints if the detector learns them."""
    boxes = torch.tensor([[6.0, 8.0, 40.0, 44.0], [50.0, 20.0, 84.0, 60.0]])
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    offsets = torch.arange(3)
    keypoints = None
    if config.keypoint:
        fractions = torch.linspace(0.1, 0.9, len(config.keypoint.names))[:, None]
        points = boxes[:, None, :2] + fractions * (boxes[:, None, 2:] - boxes[:, None, :2])
        keypoints = torch.cat([points, torch.full_like(points[..., :1], 2.0)], dim=-1)
    masks = PolygonMasks(corners, 4 * offsets, offsets) if config.mask else None
    target = Targets(boxes, torch.tensor([1, config.num_classes]), masks, keypoints)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    return image, target


def expected_losses(config):
    if config.retinanet:
        return {"retinanet_class", "retinanet_box"}
    names = {"rpn_objectness", "rpn_box"}
    if config.box:
        names |= {"box_class", "box_regression"}
    return names | {name for name in ("mask", "keypoint") if getattr(config, name)}


@pytest.mark.parametrize("run", distinct_detectors())
def test_every_recipe_trains_a_step_and_detects_objects(run):
    config = narrowed(run.model)
    torch.manual_seed(0)
    detector = build_detector(config).train()
    image, target = example(config)
    batch = pad_batch([torch.from_numpy(image)], [ImageSize(64, 96)], [1])
    losses = detector(batch, [target])
    assert losses.keys() == expected_losses(config)
    assert all(term.total.isfinite() for term in losses.values())
    optimizer = build_optimizer(detector, run.train.optimizer)
    sum(term.total / term.count.clamp(min=1) for term in losses.values()).backward()
    trained = [p for p in detector.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    before = [p.detach().clone() for p in trained]
    # Random frozen layers give gradients far too large for the recipe's learning rate.
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    assert any(not torch.equal(old, new) for old, new in zip(before, trained, strict=True))

    [detections] = Predictor(detector).predict([image])
    assert len(detections) > 0
    assert detections.image_size == (64, 96)
    assert (detections.masks is not None) == (config.mask is not None)
    assert (detections.keypoints is not None) == (config.keypoint is not None)
