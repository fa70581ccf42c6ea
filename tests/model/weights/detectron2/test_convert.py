"""detectron2's names, and its background, which is the last class."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model import ModelConfig, build_detector
from model.layers.norm import convolve_and_normalize
from model.weights import WeightsError, load_network, load_weights

LAYERS = {0: "shortcut", 1: "conv1", 2: "conv2", 3: "conv3"}
NAMES = {
    ("stem",): "backbone.bottom_up.stem.conv1",
    ("rpn",): "proposal_generator.rpn_head.conv",
    ("objectness",): "proposal_generator.rpn_head.objectness_logits",
    ("anchor deltas",): "proposal_generator.rpn_head.anchor_deltas",
    ("fc", 1): "roi_heads.box_head.fc1",
    ("fc", 2): "roi_heads.box_head.fc2",
    ("mask deconvolution",): "roi_heads.mask_head.deconv",
}


def layer_name(key):
    kind, *rest = key
    match kind:
        case "block":
            return f"backbone.bottom_up.res{rest[0]}.{rest[1]}.{LAYERS[rest[2]]}"
        case "lateral" | "output":
            return f"backbone.fpn_{kind}{rest[0]}"
        case "mask":
            return f"roi_heads.mask_head.mask_fcn{rest[0]}"
    return NAMES[key]


@pytest.fixture
def arrays(narrow_shapes, random_weights):
    """A Mask R-CNN with 5 classes and folded norms, as in the model zoo."""
    arrays = {}
    for key, shape in narrow_shapes.items():
        name = layer_name(key)
        arrays[f"{name}.weight"] = random_weights(shape)
        if key[0] in ("stem", "block"):
            arrays[f"{name}.norm.weight"] = 1 + random_weights(shape[:1])
            arrays[f"{name}.norm.bias"] = random_weights(shape[:1])
            arrays[f"{name}.norm.running_mean"] = np.zeros(shape[0], np.float32)
            arrays[f"{name}.norm.running_var"] = np.full(shape[0], 1 - 1e-5, np.float32)
        else:
            channels = shape[1] if "deconv" in name else shape[0]
            arrays[f"{name}.bias"] = random_weights((channels,))
    for name, shape in (
        ("roi_heads.box_predictor.cls_score", (6, 24)),
        ("roi_heads.box_predictor.bbox_pred", (20, 24)),
        ("roi_heads.mask_head.predictor", (5, 16, 1, 1)),
    ):
        arrays[f"{name}.weight"] = random_weights(shape)
        arrays[f"{name}.bias"] = random_weights(shape[:1])
    arrays["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), np.float32)
    return arrays


@pytest.fixture(params=[".pkl", ".pth"])
def path(request, arrays, tmp_path):
    path = tmp_path / f"model_final{request.param}"
    if request.param == ".pkl":
        content = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
        path.write_bytes(pickle.dumps(content))
    else:
        tensors = {f"module.{name}": torch.from_numpy(a) for name, a in arrays.items()}
        torch.save({"model": tensors, "optimizer": {"state": {}}, "iteration": 9}, path)
    return path


def test_the_background_becomes_class_0(path, arrays):
    detector = load_network(path)
    get = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.manual_seed(1)
    pooled = torch.randn(3, 16, 7, 7)
    hidden = pooled.flatten(1)
    for layer in ("fc1", "fc2"):
        name = f"roi_heads.box_head.{layer}"
        hidden = F.relu(F.linear(hidden, get[f"{name}.weight"], get[f"{name}.bias"]))
    predictor = "roi_heads.box_predictor"
    scores = F.linear(
        hidden, get[f"{predictor}.cls_score.weight"], get[f"{predictor}.cls_score.bias"]
    )
    boxes = F.linear(
        hidden, get[f"{predictor}.bbox_pred.weight"], get[f"{predictor}.bbox_pred.bias"]
    )
    logits, deltas = detector.roi_heads.box(pooled)
    torch.testing.assert_close(logits[:, 0], scores[:, 5])
    torch.testing.assert_close(logits[:, 1:], scores[:, :5])
    torch.testing.assert_close(deltas[:, 1:], boxes.view(3, 5, 4))
    assert not deltas[:, 0].any()


def test_every_class_keeps_its_mask(path, arrays):
    detector = load_network(path)
    get = {name: torch.from_numpy(array) for name, array in arrays.items()}
    x = pooled = torch.randn(2, 16, 14, 14, generator=torch.Generator().manual_seed(2))
    for layer in range(1, 5):
        name = f"roi_heads.mask_head.mask_fcn{layer}"
        x = F.relu(F.conv2d(x, get[f"{name}.weight"], get[f"{name}.bias"], padding=1))
    name = "roi_heads.mask_head.deconv"
    x = F.relu(F.conv_transpose2d(x, get[f"{name}.weight"], get[f"{name}.bias"], stride=2))
    name = "roi_heads.mask_head.predictor"
    x = F.conv2d(x, get[f"{name}.weight"], get[f"{name}.bias"])
    # Our labels 1 and 5 are the classes 0 and 4 of detectron2.
    masks = detector.roi_heads.mask(pooled, torch.tensor([1, 5]))
    torch.testing.assert_close(masks, torch.stack([x[0, 0], x[1, 4]]), rtol=1e-4, atol=1e-4)


def test_class_agnostic_boxes_and_masks_get_no_background(arrays, tmp_path):
    layers = ("roi_heads.box_predictor.bbox_pred", "roi_heads.mask_head.predictor")
    for layer, rows in zip(layers, (4, 1), strict=True):
        for kind in ("weight", "bias"):
            arrays[f"{layer}.{kind}"] = arrays[f"{layer}.{kind}"][:rows]
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    detector = load_network(path)
    assert detector.config.box.class_agnostic
    assert detector.config.mask.class_agnostic
    for output, layer in zip(
        (detector.roi_heads.box.box_deltas, detector.roi_heads.mask.logits), layers, strict=True
    ):
        assert output.weight.equal(torch.from_numpy(arrays[f"{layer}.weight"]))


@pytest.mark.parametrize("with_statistics", [True, False])
def test_a_folded_norm_computes_its_affine_map(arrays, tmp_path, with_statistics):
    if not with_statistics:
        arrays = {n: a for n, a in arrays.items() if "running" not in n}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    detector = load_network(path)
    x = torch.randn(1, 32, 12, 16, generator=torch.Generator().manual_seed(2))
    layer = "backbone.bottom_up.res3.0.shortcut"
    scale, bias = (torch.from_numpy(arrays[f"{layer}.norm.{k}"]) for k in ("weight", "bias"))
    expected = F.conv2d(x, torch.from_numpy(arrays[f"{layer}.weight"]), stride=2)
    expected = expected * scale[:, None, None] + bias[:, None, None]
    actual = convolve_and_normalize(x, *detector.backbone.layer2[0].downsample)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_the_layers_of_pyramid_and_rpn_are_matched(path, arrays):
    detector = load_network(path)
    for level in range(4):
        expected = torch.from_numpy(arrays[f"backbone.fpn_output{level + 2}.weight"])
        assert detector.fpn.output[level].weight.equal(expected)
        expected = torch.from_numpy(arrays[f"backbone.fpn_lateral{level + 2}.bias"])
        assert detector.fpn.lateral[level].bias.equal(expected)
    expected = torch.from_numpy(arrays["proposal_generator.rpn_head.anchor_deltas.weight"])
    assert detector.rpn.head.deltas.weight.equal(expected)


def test_default_conventions_are_assumed_and_reported(path, caplog):
    config = load_network(path).config
    conventions = config.conventions
    assert (conventions.pixel_order, conventions.pixel_std, conventions.stride_in_1x1) == (
        "bgr",
        (1, 1, 1),
        True,
    )
    assert (conventions.roi_aligned, conventions.roi_sampling_ratio, conventions.norm_epsilon) == (
        True,
        0,
        1e-5,
    )
    assert (conventions.rpn_smooth_l1_beta, conventions.box_smooth_l1_beta) == (0, 0)
    assert not conventions.legacy_geometry
    assert conventions.mask_paste == "grid"
    assert config.rpn.post_nms_train == 1000
    assert "state them as conventions={'pixel_order': 'rgb'" in caplog.text


def test_the_detector_has_the_pixel_mean_and_std_of_the_file(arrays, tmp_path):
    pixels = {
        "pixel_mean": np.array([123.675, 116.28, 103.53], np.float32).reshape(3, 1, 1),
        "pixel_std": np.array([58.395, 57.12, 57.375], np.float32).reshape(3, 1, 1),
    }
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": arrays | pixels, "__author__": "x"}))
    conventions = load_network(path).config.conventions
    assert (conventions.pixel_order, conventions.stride_in_1x1) == ("rgb", False)
    assert conventions.pixel_std == (58.395, 57.12, 57.375)
    stated = {"stride_in_1x1": True}
    assert load_network(path, conventions=stated).config.conventions.stride_in_1x1


def test_a_torchvision_backbone_in_its_format_fills_the_backbone(arrays, tmp_path):
    prefix = "backbone.bottom_up."
    backbone = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    backbone |= {"stem.fc.weight": np.ones((9, 4), np.float32)}
    path = tmp_path / "R-50.pkl"
    content = {"model": backbone, "__author__": "torchvision", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content))
    detector = build_detector(ModelConfig.model_validate({"backbone": {"width": 8}}))
    report = load_weights(detector, path)
    assert set(report.loaded) == {f"backbone.{n}" for n in detector.backbone.state_dict()}
    assert report.ignored.keys() == {"stem.fc.weight"}
    # RGB, the usual standard deviation, strides in the 3x3: our defaults, nothing to convert.
    assert report.notes == ()
    assert detector.backbone.conv1.weight.equal(torch.from_numpy(backbone["stem.conv1.weight"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roi_heads.box_predictor.bbox_pred.weight": np.ones((8, 24))}, "class-agnostic"),
        ({"pixel_mean": np.ones(2), "pixel_std": np.ones(2)}, "three channels"),
    ],
)
def test_unsupported_models_are_refused(arrays, tmp_path, change, message):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": arrays | change, "__author__": "x"}))
    with pytest.raises(WeightsError, match=message):
        load_network(path)
