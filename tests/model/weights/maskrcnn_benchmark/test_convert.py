"""maskrcnn-benchmark's names; what it computes is tested in full with Detectron's."""

import pytest
import torch
import torch.nn.functional as F

from model.layers.norm import convolve_and_normalize
from model.weights import WeightsError, load_network

NAMES = {
    ("stem",): ("backbone.body.stem.conv1", "backbone.body.stem.bn1"),
    ("rpn",): ("rpn.head.conv",),
    ("objectness",): ("rpn.head.cls_logits",),
    ("anchor deltas",): ("rpn.head.bbox_pred",),
    ("fc", 1): ("roi_heads.box.feature_extractor.fc6",),
    ("fc", 2): ("roi_heads.box.feature_extractor.fc7",),
    ("mask deconvolution",): ("roi_heads.mask.predictor.conv5_mask",),
}


def layer_names(key):
    """Return the name of a layer, and of its norm if it has one."""
    kind, *rest = key
    match kind:
        case "block":
            block = f"backbone.body.layer{rest[0] - 1}.{rest[1]}"
            if rest[2] == 0:
                return f"{block}.downsample.0", f"{block}.downsample.1"
            return f"{block}.conv{rest[2]}", f"{block}.bn{rest[2]}"
        case "lateral":
            return (f"backbone.fpn.fpn_inner{rest[0] - 1}",)
        case "output":
            return (f"backbone.fpn.fpn_layer{rest[0] - 1}",)
        case "mask":
            return (f"roi_heads.mask.feature_extractor.mask_fcn{rest[0]}",)
    return NAMES[key]


@pytest.fixture
def state(narrow_shapes, random_weights):
    """A Mask R-CNN with 5 classes, the background first."""
    state = {"rpn.anchor_generator.cell_anchors.0": torch.zeros(3, 4)}
    for key, shape in narrow_shapes.items():
        layer, *norm = layer_names(key)
        state[f"{layer}.weight"] = random_weights(shape)
        channels = shape[1] if "conv5" in layer else shape[0]
        for name in norm or [layer]:
            state[f"{name}.bias"] = random_weights((channels,))
        for name in norm:
            state[f"{name}.weight"] = 1 + random_weights((channels,))
            state[f"{name}.running_mean"] = random_weights((channels,))
            state[f"{name}.running_var"] = 1 + random_weights((channels,)) ** 2
    for name, shape in (
        ("roi_heads.box.predictor.cls_score", (6, 24)),
        ("roi_heads.box.predictor.bbox_pred", (24, 24)),
        ("roi_heads.mask.predictor.mask_fcn_logits", (6, 16, 1, 1)),
    ):
        state[f"{name}.weight"] = random_weights(shape)
        state[f"{name}.bias"] = random_weights(shape[:1])
    return {name: torch.as_tensor(array) for name, array in state.items()}


@pytest.fixture
def save(tmp_path):
    def save(state):
        path = tmp_path / "model_0090000.pth"
        wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
        content = {
            "model": wrapped,
            "optimizer": {},
            "scheduler": {"last_epoch": 1},
            "iteration": 2,
        }
        # The file format of torch before 1.6.
        torch.save(content, path, _use_new_zipfile_serialization=False)
        return path

    return save


def test_the_frozen_norm_has_no_epsilon(state, save):
    detector = load_network(save(state))
    x = torch.randn(1, 32, 12, 16, generator=torch.Generator().manual_seed(0))
    block = "backbone.body.layer2.0"
    get = {k: state[f"{block}.bn1.{k}"].view(-1, 1, 1) for k in ("weight", "bias")}
    mean, var = (state[f"{block}.bn1.running_{k}"].view(-1, 1, 1) for k in ("mean", "var"))
    # The stride is in the first 1x1.
    y = F.conv2d(x, state[f"{block}.conv1.weight"], stride=2)
    expected = (y - mean) / var.sqrt() * get["weight"] + get["bias"]
    actual = convolve_and_normalize(
        x, detector.backbone.layer2[0].conv1, detector.backbone.layer2[0].bn1
    )
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_layers_of_pyramid_and_heads_are_matched(state, save):
    detector = load_network(save(state))
    pooled = torch.randn(3, 16, 7, 7, generator=torch.Generator().manual_seed(1))
    hidden = pooled.flatten(1)
    for layer in ("fc6", "fc7"):
        name = f"roi_heads.box.feature_extractor.{layer}"
        hidden = F.relu(F.linear(hidden, state[f"{name}.weight"], state[f"{name}.bias"]))
    logits, deltas = detector.roi_heads.box(pooled)
    for actual, layer in ((logits, "cls_score"), (deltas.flatten(1), "bbox_pred")):
        name = f"roi_heads.box.predictor.{layer}"
        expected = F.linear(hidden, state[f"{name}.weight"], state[f"{name}.bias"])
        torch.testing.assert_close(actual, expected)
    for level in range(4):
        name = f"backbone.fpn.fpn_inner{level + 1}.weight"
        assert detector.fpn.lateral[level].weight.equal(state[name])
        name = f"backbone.fpn.fpn_layer{level + 1}.weight"
        assert detector.fpn.output[level].weight.equal(state[name])
    assert detector.rpn.head.deltas.weight.equal(state["rpn.head.bbox_pred.weight"])
    logits = state["roi_heads.mask.predictor.mask_fcn_logits.weight"]
    assert detector.roi_heads.mask.logits.weight.equal(logits)
    for layer in range(4):
        name = f"roi_heads.mask.feature_extractor.mask_fcn{layer + 1}.bias"
        assert detector.roi_heads.mask.convs[layer].bias.equal(state[name])


def test_the_conventions_match_detectron_except_for_resizing(state, save, caplog):
    conventions = load_network(save(state)).config.conventions
    assert conventions.pixel_order == "bgr"
    assert conventions.pixel_mean == (102.9801, 115.9465, 122.7717)
    assert (conventions.norm_epsilon, conventions.stride_in_1x1, conventions.legacy_geometry) == (
        0,
        True,
        True,
    )
    assert (conventions.mask_paste, conventions.resize_rounding) == ("padded", "down")
    assert conventions.resize_filter == "antialias"
    assert not caplog.text  # no warning: the detector follows all of them


def test_faster_r_cnn_has_no_mask_head(state, save):
    boxes_only = {n: t for n, t in state.items() if not n.startswith("roi_heads.mask.")}
    assert load_network(save(boxes_only)).roi_heads.mask is None


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        (None, "roi_heads.keypoint.predictor.kps_score_lowres.weight", "4 dimensions"),
        (
            None,
            "roi_heads.box.feature_extractor.head.layer4.0.conv1.weight",
            r"must have 4 dim.*\(3,\)",
        ),
        (None, "roi_heads.box.feature_extractor.xconvs.0.weight", "4 dimensions"),
        (None, "backbone.fpn.fpn_inner1.0.weight", "a pyramid with ReLUs"),
        (None, "roi_heads.mask.feature_extractor.head.layer4.0.conv1.weight", "its own res5"),
        ("fpn_layer", None, "feature pyramid"),
        ("rpn.head.conv.bias", None, r"does not fill .*rpn\.head\.convs\.0\.bias"),
    ],
)
def test_unsupported_and_incomplete_models_are_refused(state, save, drop, add, message):
    changed = {n: t for n, t in state.items() if drop is None or drop not in n}
    if add is not None:
        changed[add] = torch.ones(3)
    with pytest.raises(WeightsError, match=message):
        load_network(save(changed))
