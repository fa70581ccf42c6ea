"""A plain backbone fills a detector whose box head is res5 (c4)."""

import pickle

import pytest
import torch
import torchvision

from model import build_detector
from model.weights import WeightsError, load_weights

C4 = {"depth": 50, "norm": "frozen_bn", "features": "c4", "frozen_stages": 0}


@pytest.fixture
def c4(tiny_config):
    def build(**changes):
        backbone = C4 | {"width": 8} | changes
        return build_detector(tiny_config(backbone=backbone, mask=None, box={"pool_side": 14}))

    return build


def blocks_and_norms(shapes, draw, stem_norm, layer_name):
    """Return the weights of the blocks, and the channels of the norm after each layer, by name.

    Args:
        shapes: of the layers, by key.
        draw: returns an array of a shape.
        stem_norm: name of the stem's norm.
        layer_name: names a layer by its stage, block and number.
    """
    weights, norms = {}, {stem_norm: shapes["stem",][0]}
    for (kind, *key), shape in shapes.items():
        if kind == "block":
            weights[layer_name(*key)] = draw(shape)
            norms[layer_name(*key)] = shape[0]
    return weights, norms


def detectron2_names(shapes, draw):
    """Return R-50.pkl in detectron2's format."""
    layers = ("shortcut", "conv1", "conv2", "conv3")
    weights, norms = blocks_and_norms(
        shapes, draw, "stem.conv1", lambda stage, block, n: f"res{stage}.{block}.{layers[n]}"
    )
    arrays = {"stem.conv1.weight": draw(shapes["stem",])}
    arrays |= {f"{name}.weight": weight for name, weight in weights.items()}
    for name, channels in norms.items():
        for part in ("weight", "bias", "running_mean", "running_var"):
            arrays[f"{name}.norm.{part}"] = draw((channels,))
    return arrays, "res5.{}.{}.weight", layers


def detectron_names(shapes, draw):
    """Return R-50.pkl with the names of Caffe2 blobs, from which most detectron2 models start."""
    layers = ("branch1", "branch2a", "branch2b", "branch2c")
    weights, norms = blocks_and_norms(
        shapes, draw, "res_conv1", lambda stage, block, n: f"res{stage}_{block}_{layers[n]}"
    )
    arrays = {"conv1_w": draw(shapes["stem",])}
    arrays |= {f"{name}_w": weight for name, weight in weights.items()}
    for name, channels in norms.items():
        arrays[f"{name}_bn_s"], arrays[f"{name}_bn_b"] = draw((channels,)), draw((channels,))
    return arrays, "res5_{}_{}_w", layers


@pytest.mark.parametrize("written", [detectron2_names, detectron_names], ids=["d2", "caffe2"])
def test_res5_of_r50_fills_the_box_head(c4, narrow_shapes, random_weights, tmp_path, written):
    arrays, name, layers = written(narrow_shapes, random_weights)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Caffe2"}))
    detector = c4()
    report = load_weights(detector, path)
    assert not report.unexpected_keys
    res5 = detector.roi_heads.box.res5
    assert {n for n in report.loaded if "res5" in n} == {
        f"roi_heads.box.res5.{n}" for n in res5.state_dict() if "tracked" not in n
    }
    for block, number in ((res5[0], 0), (res5[2], 2)):
        convolutions = [block.downsample[0]] if number == 0 else []
        convolutions += [block.conv1, block.conv2, block.conv3]
        for convolution, layer in zip(reversed(convolutions), reversed(layers), strict=False):
            expected = torch.from_numpy(arrays[name.format(number, layer)])
            assert convolution.weight.equal(expected)
    assert report.original_names["roi_heads.box.res5.1.conv2.weight"] == name.format(1, layers[2])


def test_res5_of_a_torchvision_resnet50_fills_the_box_head(c4, tmp_path):
    classifier = torchvision.models.resnet50(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "resnet50.pth")
    detector = c4(width=64)
    report = load_weights(detector, tmp_path / "resnet50.pth")
    assert not report.unexpected_keys
    for name, tensor in detector.roi_heads.box.res5.state_dict().items():
        assert tensor.equal(classifier.layer4.state_dict()[name])
    assert detector.backbone.layer3[5].conv3.weight.equal(classifier.layer3[5].conv3.weight)
    missing = {name for name in report.missing_keys if "res5" in name or name[:8] == "backbone"}
    assert missing == set()


@pytest.mark.parametrize("features", ["c4", "fpn"])
def test_deformable_offsets_stay_zero_with_a_plain_backbone(
    c4, narrow_shapes, random_weights, tmp_path, features
):
    arrays, _, _ = detectron2_names(narrow_shapes, random_weights)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Caffe2"}))
    detector = c4(features=features, deformable="v2")
    report = load_weights(detector, path)
    offsets = {name for name in detector.state_dict() if "conv2_offset" in name}
    assert offsets and offsets <= set(report.missing_keys)
    assert ("roi_heads.box.res5.0.conv2_offset.weight" in offsets) == (features == "c4")
    assert not any(detector.state_dict()[name].any() for name in offsets)


def test_res5_of_a_box_head_does_not_fill_the_backbone(c4, tmp_path):
    parts = ("backbone.", "roi_heads.box.res5.")
    state = {n: tensor for n, tensor in c4().state_dict().items() if n.startswith(parts)}
    path = tmp_path / "parts.pth"
    torch.save(state, path)
    pyramid = c4(features="fpn")
    with pytest.raises(WeightsError, match=r"backbone\.layer4\.0\.conv1\.weight is missing"):
        load_weights(pyramid, path, allow_unused=["roi_heads.*"])


def test_a_backbone_without_its_last_block_is_an_error(c4, narrow_shapes, random_weights, tmp_path):
    arrays, _, _ = detectron2_names(narrow_shapes, random_weights)
    arrays = {name: a for name, a in arrays.items() if not name.startswith("res5.2.")}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Caffe2"}))
    with pytest.raises(WeightsError, match=r"roi_heads\.box\.res5\.2\.conv1\.weight is missing"):
        load_weights(c4(), path)
