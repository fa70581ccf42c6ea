import json

import pytest
import torch

from model import Category, build_detector, save_detector
from model.weights import WeightsError, load_network, load_weights

CATEGORIES = (Category(3, "cat"), Category(9, "dog"), Category(70, "owl"))


@pytest.fixture
def saved(tiny_config, tmp_path):
    detector = build_detector(tiny_config(), CATEGORIES)
    save_detector(detector, tmp_path / "saved")
    return detector, tmp_path / "saved"


def have_same_weights(one, other):
    theirs = other.state_dict()
    return all(tensor.equal(theirs[name]) for name, tensor in one.state_dict().items())


def test_tensors_alone_need_a_config(saved, tmp_path):
    detector, _ = saved
    torch.save({"model": detector.state_dict()}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="pass config="):
        load_network(tmp_path / "weights.pth")
    assert have_same_weights(detector, load_network(tmp_path / "weights.pth", detector.config))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "x", "model": detector.config.model_dump(mode="json")}))
    assert have_same_weights(detector, load_network(tmp_path / "weights.pth", recipe))


def test_incomplete_weights_are_not_a_trained_detector(saved, tmp_path):
    detector, _ = saved
    state = {n: t for n, t in detector.state_dict().items() if not n.startswith("roi_heads.mask.")}
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"does not fill .*roi_heads\.mask\.convs\.0\.weight"):
        load_network(tmp_path / "part.pth", detector.config)


def test_missing_and_unused_tensors_are_an_error_unless_allowed_by_name(saved, tmp_path):
    detector, _ = saved
    state = detector.state_dict()
    odd = {"stray": torch.zeros(2), **state}
    torch.save(odd, tmp_path / "odd.pth")
    for load in (
        lambda **k: load_network(tmp_path / "odd.pth", detector.config, **k),
        lambda **k: load_weights(detector, tmp_path / "odd.pth", **k),
    ):
        with pytest.raises(WeightsError, match="stray is not used"):
            load()
        load(allow_unused=["str*"])
    del odd["stray"], odd["fpn.output.0.bias"]
    torch.save(odd, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"fpn\.output\.0\.bias is missing"):
        load_weights(detector, tmp_path / "odd.pth")
    report = load_weights(detector, tmp_path / "odd.pth", allow_missing=["fpn.output.*"])
    assert report.missing_keys == ("fpn.output.0.bias",)


def test_training_may_start_from_weights_with_another_set_of_heads(saved, tiny_config):
    detector, folder = saved
    boxes_only = build_detector(tiny_config(mask=None), CATEGORIES)
    unexpected = load_weights(boxes_only, folder).unexpected_keys
    assert all(name.startswith("roi_heads.mask.") for name in unexpected) and unexpected
    proposals_only = build_detector(tiny_config(mask=None, box=None), CATEGORIES)
    load_weights(proposals_only, folder)
    for name, tensor in proposals_only.state_dict().items():
        assert tensor.equal(detector.state_dict()[name])


def test_fine_tuning_on_other_classes_leaves_their_layers_at_initialization(saved, tiny_config):
    pretrained, folder = saved
    other = build_detector(tiny_config(num_classes=5))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    report = load_weights(other, folder)
    after, source = other.state_dict(), pretrained.state_dict()
    mismatched = set(report.mismatched_keys)
    assert mismatched == {
        f"{layer}.{kind}"
        for layer in (
            "roi_heads.box.class_logits",
            "roi_heads.box.box_deltas",
            "roi_heads.mask.logits",
        )
        for kind in ("weight", "bias")
    }
    assert set(report.loaded) == set(after) - mismatched
    for name, tensor in after.items():
        assert tensor.equal(before[name] if name in mismatched else source[name])
    assert "shape mismatch, left at initialization: 6" in str(report)
    with pytest.raises(WeightsError, match="does not fit"):
        load_weights(other, folder, allow_mismatch=False)


def test_another_architecture_is_never_an_allowed_mismatch(saved, tiny_config):
    wider = build_detector(tiny_config(box={"hidden": 128}))
    message = (
        r"roi_heads\.box\.fc1\.weight is \(128, \d+\) in the detector, \(64, \d+\) in the file"
    )
    with pytest.raises(WeightsError, match=message):
        load_weights(wider, saved[1])


def test_a_string_is_one_pattern_of_tensors_that_may_be_missing(tmp_path, detector):
    backbone = {n: t for n, t in detector.state_dict().items() if n.startswith("backbone.")}
    torch.save(backbone, tmp_path / "backbone.pth")
    with pytest.raises(WeightsError, match="missing from the file"):
        load_network(tmp_path / "backbone.pth", detector.config, allow_missing="fpn.*")
