"""Detectron's Caffe2 blobs: our detector computes what Caffe2 computes with them."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model import Category, ModelConfig, build_detector
from model.layers.norm import convolve_and_normalize
from model.weights import WeightsError, load_network, load_weights

BRANCHES = {0: "branch1", 1: "branch2a", 2: "branch2b", 3: "branch2c"}
LAST_BLOCK = {2: 2, 3: 3, 4: 5, 5: 2}


def make_blobs(narrow_shapes, random_weights, classes=5):
    """Return a Mask R-CNN as Detectron saves it: every Caffe2 layer has a bias, ``_b``."""
    names = {("stem",): "conv1", ("rpn",): "conv_rpn_fpn2"}
    names |= {("objectness",): "rpn_cls_logits_fpn2", ("anchor deltas",): "rpn_bbox_pred_fpn2"}
    names |= {("fc", 1): "fc6", ("fc", 2): "fc7", ("mask deconvolution",): "conv5_mask"}
    for stage, last in LAST_BLOCK.items():
        lateral = "" if stage == 5 else "_lateral"
        names["lateral", stage] = f"fpn_inner_res{stage}_{last}_sum{lateral}"
        names["output", stage] = f"fpn_res{stage}_{last}_sum"
    blobs = {}
    for key, shape in narrow_shapes.items():
        if key[0] == "block":
            name = f"res{key[1]}_{key[2]}_{BRANCHES[key[3]]}"
        elif key[0] == "mask":
            name = f"_[mask]_fcn{key[1]}"
        else:
            name = names[key]
        blobs[f"{name}_w"] = random_weights(shape)
        if key[0] in ("stem", "block"):
            norm = "res_conv1" if key[0] == "stem" else name
            blobs[f"{norm}_bn_s"] = 1 + random_weights(shape[:1])
            blobs[f"{norm}_bn_b"] = random_weights(shape[:1])
        else:
            channels = shape[1] if name == "conv5_mask" else shape[0]
            blobs[f"{name}_b"] = random_weights((channels,))
        blobs[f"{name}_w_momentum"] = np.zeros(shape, np.float32)
    for name, rows, inside in (
        ("cls_score", classes + 1, (24,)),
        ("bbox_pred", 4 * (classes + 1), (24,)),
        ("mask_fcn_logits", classes + 1, (16, 1, 1)),
    ):
        blobs[f"{name}_w"] = random_weights((rows, *inside))
        blobs[f"{name}_b"] = random_weights((rows,))
    return blobs | {"lr": np.float32([0.02])}


@pytest.fixture
def blobs(narrow_shapes, random_weights):
    return make_blobs(narrow_shapes, random_weights)


@pytest.fixture
def write(tmp_path, python2_pickle):
    def write(content):
        path = tmp_path / "model_final.pkl"
        path.write_bytes(python2_pickle(content))
        return path

    return write


def tensor(array):
    return torch.from_numpy(np.asarray(array))


def affine(x, blobs, name):
    scale, bias = tensor(blobs[f"{name}_bn_s"]), tensor(blobs[f"{name}_bn_b"])
    return x * scale[:, None, None] + bias[:, None, None]


def test_the_backbone_computes_what_caffe2_computes(blobs, write):
    detector = load_network(write({"blobs": blobs, "cfg": "MODEL: {}"}))
    torch.manual_seed(0)
    image = 255 * torch.rand(1, 3, 40, 56)  # red, green, blue
    bgr = image[:, [2, 1, 0]] - torch.tensor([102.9801, 115.9465, 122.7717]).view(3, 1, 1)
    conventions = detector.config.conventions
    pixels = image.flip(1) if conventions.pixel_order == "bgr" else image
    pixels = pixels - torch.tensor(conventions.pixel_mean).view(3, 1, 1)
    assert conventions.pixel_std == (1, 1, 1)
    expected = affine(
        F.conv2d(bgr, tensor(blobs["conv1_w"]), stride=2, padding=3), blobs, "res_conv1"
    )
    body = detector.backbone
    stem = convolve_and_normalize(pixels, body.conv1, body.bn1)
    torch.testing.assert_close(stem, expected, rtol=1e-5, atol=1e-3)

    x = torch.randn(1, 32, 12, 16)
    y = F.relu(
        affine(F.conv2d(x, tensor(blobs["res3_0_branch2a_w"]), stride=2), blobs, "res3_0_branch2a")
    )
    y = F.conv2d(y, tensor(blobs["res3_0_branch2b_w"]), padding=1)
    y = F.relu(affine(y, blobs, "res3_0_branch2b"))
    y = affine(F.conv2d(y, tensor(blobs["res3_0_branch2c_w"])), blobs, "res3_0_branch2c")
    shortcut = F.conv2d(x, tensor(blobs["res3_0_branch1_w"]), stride=2)
    expected = F.relu(y + affine(shortcut, blobs, "res3_0_branch1"))
    torch.testing.assert_close(body.layer2[0](x), expected, rtol=1e-5, atol=1e-5)


def test_the_layers_of_pyramid_and_rpn_are_matched(blobs, write):
    detector = load_network(write({"blobs": blobs}))
    for level, stage in enumerate((2, 3, 4, 5)):
        last = LAST_BLOCK[stage]
        inner = f"fpn_inner_res{stage}_{last}_sum" + ("" if stage == 5 else "_lateral")
        assert detector.fpn.lateral[level].weight.equal(tensor(blobs[f"{inner}_w"]))
        assert detector.fpn.output[level].bias.equal(tensor(blobs[f"fpn_res{stage}_{last}_sum_b"]))
    head = detector.rpn.head
    assert head.convs[0].weight.equal(tensor(blobs["conv_rpn_fpn2_w"]))
    assert head.objectness.bias.equal(tensor(blobs["rpn_cls_logits_fpn2_b"]))
    assert head.deltas.weight.equal(tensor(blobs["rpn_bbox_pred_fpn2_w"]))


def test_the_heads_compute_what_caffe2_computes(blobs, write):
    detector = load_network(write({"blobs": blobs}))
    get = {name: tensor(array) for name, array in blobs.items()}
    torch.manual_seed(1)
    pooled = torch.randn(3, 16, 7, 7)
    # Caffe2 flattens as channel, row, column.
    hidden = F.relu(pooled.reshape(3, -1) @ get["fc6_w"].T + get["fc6_b"])
    hidden = F.relu(hidden @ get["fc7_w"].T + get["fc7_b"])
    logits, deltas = detector.roi_heads.box(pooled)
    torch.testing.assert_close(logits, hidden @ get["cls_score_w"].T + get["cls_score_b"])
    boxes = hidden @ get["bbox_pred_w"].T + get["bbox_pred_b"]
    for label in range(6):
        torch.testing.assert_close(deltas[:, label], boxes[:, 4 * label : 4 * label + 4])
    pooled, labels = torch.randn(2, 16, 14, 14), torch.tensor([2, 5])
    x = pooled
    for layer in range(1, 5):
        x = F.relu(
            F.conv2d(x, get[f"_[mask]_fcn{layer}_w"], get[f"_[mask]_fcn{layer}_b"], padding=1)
        )
    x = F.relu(F.conv_transpose2d(x, get["conv5_mask_w"], get["conv5_mask_b"], stride=2))
    x = F.conv2d(x, get["mask_fcn_logits_w"], get["mask_fcn_logits_b"])
    expected = torch.stack([x[0, 2], x[1, 5]])
    torch.testing.assert_close(
        detector.roi_heads.mask(pooled, labels), expected, rtol=1e-4, atol=1e-4
    )


def test_the_config_has_the_conventions_that_the_weights_assume(blobs, write, caplog):
    config = load_network(
        write({"blobs": blobs}), conventions={"roi_sampling_ratio": 0}, score_threshold=0.3
    ).config
    conventions = config.conventions
    assert (config.num_classes, config.backbone.depth, config.backbone.width) == (5, 50, 8)
    assert (config.mask.layers, config.box.hidden, config.box.score_threshold) == (4, 24, 0.3)
    assert config.box.delta_weights == (10, 10, 5, 5)
    assert (conventions.stride_in_1x1, conventions.norm_epsilon, conventions.roi_aligned) == (
        True,
        0,
        False,
    )
    assert conventions.legacy_geometry
    assert conventions.roi_sampling_ratio == 0  # stated by the caller
    assert (conventions.mask_paste, conventions.resize_rounding) == ("padded", "nearest")
    assert conventions.resize_filter == "bilinear"
    assert "in pixels of the original image" in caplog.text


def test_80_classes_are_assumed_to_be_those_of_coco(narrow_shapes, random_weights, write):
    detector = load_network(write({"blobs": make_blobs(narrow_shapes, random_weights, 80)}))
    assert detector.categories[0] == Category(1, "person")
    assert detector.categories[11] == Category(13, "stop sign")
    assert detector.categories[-1] == Category(90, "toothbrush")


def test_an_imagenet_backbone_is_loaded_without_its_classifier(blobs, tmp_path):
    names = ("conv1_w", "res_conv1", "res2", "res3", "res4", "res5")
    backbone = {n: a for n, a in blobs.items() if n.startswith(names) and "momentum" not in n}
    backbone |= {"fc1000_w": np.ones((9, 4), np.float32), "conv1_b": np.zeros(8, np.float32)}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(backbone, protocol=2))
    config = {"backbone": {"width": 8}, "conventions": {"stride_in_1x1": True}}
    detector = build_detector(ModelConfig.model_validate(config))
    report = load_weights(detector, path)
    assert set(report.loaded) == {f"backbone.{n}" for n in detector.backbone.state_dict()}
    assert report.ignored.keys() == {"fc1000_w", "conv1_b"}
    assert not report.unexpected_keys
    assert report.original_names["backbone.layer4.2.bn3.bias"] == "res5_2_branch2c_bn_b"
    with pytest.raises(WeightsError, match="pass config="):
        load_network(path)


def test_grouped_convolutions_make_a_resnext_that_strides_in_its_3x3(blobs, write):
    for name, array in blobs.items():
        if name.endswith("branch2b_w"):
            blobs[name] = np.ascontiguousarray(array[:, : array.shape[1] // 4])
    detector = load_network(write({"blobs": blobs}))
    backbone = detector.config.backbone
    assert (backbone.groups, backbone.group_width, backbone.depth) == (4, 2, 50)
    assert detector.backbone.layer2[0].conv2.groups == 4
    assert not detector.config.conventions.stride_in_1x1


def test_the_class_agnostic_box_is_the_second(blobs, write):
    blobs |= {n: np.ascontiguousarray(blobs[n][:8]) for n in ("bbox_pred_w", "bbox_pred_b")}
    detector = load_network(write({"blobs": blobs}))
    assert detector.config.box.class_agnostic
    assert detector.roi_heads.box.box_deltas.weight.equal(tensor(blobs["bbox_pred_w"][4:]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"res2_0_branch2a_gn_s": np.ones(8, np.float32)}, r"_bn_s and res2_0_branch2a_gn_s would"),
        ({"kps_score_w": np.ones(8, np.float32)}, "Keypoint"),
        (
            {"conv_rpn_w": np.ones((8, 8, 3, 3), np.float32)},
            "conv_rpn_fpn2_w and conv_rpn_w would both",
        ),
        ({"_[mask]_res5_0_branch1_w": np.ones(8, np.float32)}, "its own res5"),
        ({"kps_deconv_w": np.ones(8, np.float32)}, "Keypoint R-CNN with a deconvolution"),
        ({"res3_0_branch2b_w": np.ones((8, 1, 3, 3), np.float32)}, r"layer2\.0\.conv2\.weight"),
        ({"bbox_pred_w": np.ones((12, 24), np.float32)}, "class-agnostic"),
        ({"fc7_w": np.ones((24, 23), np.float32)}, r"roi_heads\.box\.fc2\.weight is \(24, 24\)"),
        ({"fc6_w": None}, "fully connected"),
        ({"fc6_w": np.ones((24, 16, 7, 7), np.float32)}, r"fc6_w must have 2 .* \(24, 16, 7, 7\)"),
        ({"conv1_w": np.float32(1)}, r"conv1_w must have 4 dimensions, .* got \(\)"),
        ({"cls_score_w": np.ones((0, 24), np.float32)}, "cls_score_w must have .* none of them 0"),
        ({"fpn_res3_3_sum_w": None}, r"does not fill .*fpn\.output\.1\.weight"),
        ({"res4_5_branch2a_w": np.full(3, "x", object)}, "Python objects|array"),
    ],
)
def test_unsupported_and_damaged_models_are_refused(blobs, tmp_path, change, message):
    changed = {n: a for n, a in (blobs | change).items() if a is not None}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"blobs": changed}, protocol=2))
    with pytest.raises(WeightsError, match=message) as raised:
        load_network(path)
    assert "model.pkl" in str(raised.value)


def test_truncated_files_are_refused(blobs, write):
    path = write({"blobs": blobs})
    data = path.read_bytes()
    for end in range(0, len(data), len(data) // 25):
        path.write_bytes(data[:end])
        with pytest.raises(WeightsError, match=r"model_final\.pkl"):
            load_network(path)
