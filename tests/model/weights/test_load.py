import json

import pytest
import torch
import torchvision
from torch import nn

from model import Category, ModelConfig, build_detector, load_detector, save_detector
from model.config.settings import ConfigError
from model.weights import WeightsError, load_weights

CATEGORIES = (Category(3, "cat"), Category(9, "dog"), Category(70, "owl"))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(tensor.equal(theirs[name]) for name, tensor in one.state_dict().items())


@pytest.fixture
def saved(tiny_config, tmp_path):
    detector = build_detector(tiny_config(), CATEGORIES)
    save_detector(detector, tmp_path / "saved")
    return detector, tmp_path / "saved"


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_a_saved_detector_loads_as_it_was(saved, file):
    detector, folder = saved
    loaded = load_detector(folder / file)
    assert same_weights(detector, loaded)
    assert loaded.config == detector.config
    assert loaded.categories == CATEGORIES
    assert not loaded.training


def test_who_may_read_the_description_may_read_the_weights(saved):
    modes = {path.name: path.stat().st_mode for path in saved[1].iterdir()}
    assert modes["model.safetensors"] == modes["model.json"]


def test_inference_settings_can_be_overridden_by_name(saved):
    config = load_detector(
        saved[1],
        short_side=48,
        long_side=72,
        score_threshold=0.3,
        nms_iou=0.4,
        detections_per_image=7,
        mask_threshold=0.6,
    ).config
    assert (config.input.short_side, config.input.long_side) == (48, 72)
    assert (config.box.score_threshold, config.box.nms_iou) == (0.3, 0.4)
    assert config.box.detections_per_image == 7
    assert config.mask.threshold == 0.6


def test_a_misspelt_override_names_the_nearest(saved):
    with pytest.raises(TypeError, match=r"'score_treshold'; did you mean score_threshold\?"):
        load_detector(saved[1], score_treshold=0.3)
    with pytest.raises(ConfigError, match="score_threshold"):
        load_detector(saved[1], score_threshold=30)


def test_tensors_alone_need_a_config(saved, tmp_path):
    detector, _ = saved
    torch.save({"model": detector.state_dict()}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="pass config="):
        load_detector(tmp_path / "weights.pth")
    assert same_weights(detector, load_detector(tmp_path / "weights.pth", detector.config))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "x", "model": detector.config.model_dump(mode="json")}))
    assert same_weights(detector, load_detector(tmp_path / "weights.pth", recipe))


def test_the_prefix_of_distributed_training_does_not_matter(saved, tmp_path):
    detector, _ = saved
    state = {f"module.{name}": tensor for name, tensor in detector.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    assert same_weights(detector, load_detector(tmp_path / "weights.pth", detector.config))


class Trojan:
    def __reduce__(self):
        return (pytest.fail, ("unpickling ran code",))


def truncated(path):
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p.unlink(), "there is no such file"),
        (truncated, "damaged"),
        (lambda p: p.write_bytes(b""), "damaged"),
        (lambda p: p.write_text("not weights at all"), "damaged"),
        (lambda p: torch.save({"model": Trojan()}, p), "unpickling"),
        (lambda p: torch.save([1, 2], p), "no named tensors but list"),
        (lambda p: torch.save({"epoch": 3}, p), "no tensors: epoch"),
        (lambda p: torch.save({"elsewhere": torch.ones(1)}, p), "only elsewhere"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_or_foreign_file_is_named(saved, tmp_path, spoil, words, suffix):
    detector, folder = saved
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(detector.state_dict(), path)
    else:
        path.write_bytes((folder / "model.safetensors").read_bytes())
        words = words if "no such" in words else "damaged"
    spoil(path)
    with pytest.raises(WeightsError, match=words) as raised:
        load_detector(path, detector.config)
    assert path.name in str(raised.value)


@pytest.mark.parametrize("text", ["{", "{}", '{"format": 99}', "[]"])
def test_a_damaged_description_is_named(saved, text):
    (saved[1] / "model.json").write_text(text)
    with pytest.raises(WeightsError, match=r"model\.json"):
        load_detector(saved[1])


def test_a_part_of_the_weights_is_not_a_trained_detector(saved, tmp_path):
    detector, _ = saved
    state = {n: t for n, t in detector.state_dict().items() if not n.startswith("roi_heads.mask.")}
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"does not fill .*roi_heads\.mask\.convs\.0\.weight"):
        load_detector(tmp_path / "part.pth", detector.config)


def test_what_no_one_explains_is_an_error_unless_allowed_by_name(saved, tmp_path):
    detector, _ = saved
    state = detector.state_dict()
    odd = {"stray": torch.zeros(2), **state}
    torch.save(odd, tmp_path / "odd.pth")
    for load in (
        lambda **k: load_detector(tmp_path / "odd.pth", detector.config, **k),
        lambda **k: load_weights(detector, tmp_path / "odd.pth", **k),
    ):
        with pytest.raises(WeightsError, match="stray is not used"):
            load()
        load(allow_unused=["str*"])
    del odd["stray"], odd["fpn.output.0.bias"]
    torch.save(odd, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=r"fpn\.output\.0\.bias is not filled"):
        load_weights(detector, tmp_path / "odd.pth")
    report = load_weights(detector, tmp_path / "odd.pth", allow_missing=["fpn.output.*"])
    assert report.initialised == ("fpn.output.0.bias",)


def test_training_may_begin_with_a_head_more_or_less(saved, tiny_config):
    detector, folder = saved
    boxes_only = build_detector(tiny_config(mask=None), CATEGORIES)
    report = load_weights(boxes_only, folder)
    assert all(name.startswith("roi_heads.mask.") for name in report.dropped) and report.dropped
    proposals_only = build_detector(tiny_config(mask=None, box=None), CATEGORIES)
    load_weights(proposals_only, folder)
    for name, tensor in proposals_only.state_dict().items():
        assert tensor.equal(detector.state_dict()[name])


def test_fine_tuning_other_classes_leaves_their_layers_at_initialisation(saved, tiny_config):
    pretrained, folder = saved
    other = build_detector(tiny_config(num_classes=5))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    report = load_weights(other, folder)
    after, source = other.state_dict(), pretrained.state_dict()
    fresh = {name.split(" ")[0] for name in report.mismatched}
    assert fresh == {
        f"{layer}.{kind}"
        for layer in (
            "roi_heads.box.class_logits",
            "roi_heads.box.box_deltas",
            "roi_heads.mask.logits",
        )
        for kind in ("weight", "bias")
    }
    assert set(report.loaded) == set(after) - fresh
    for name, tensor in after.items():
        assert tensor.equal(before[name] if name in fresh else source[name])
    assert "other shape, left at initialisation: 6" in str(report)
    with pytest.raises(WeightsError, match="does not fit"):
        load_weights(other, folder, allow_mismatch=False)


def test_another_architecture_is_never_accepted_as_a_mismatch(saved, tiny_config):
    wider = build_detector(tiny_config(box={"hidden": 128}))
    with pytest.raises(
        WeightsError, match=r"roi_heads\.box\.fc1\.weight \(128, \d+\) <- \(64, \d+\)"
    ):
        load_weights(wider, saved[1])


def test_a_classifier_s_weights_fill_the_backbone(tiny_config, tmp_path):
    classifier = torchvision.models.resnet18()
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    config = tiny_config(backbone={"depth": 18, "norm": "frozen_bn"})
    detector = build_detector(config)
    report = load_weights(detector, tmp_path / "resnet18.pth")
    assert set(report.loaded) == {f"backbone.{n}" for n in detector.backbone.state_dict()}
    assert report.unneeded.keys() == {"fc.weight", "fc.bias"}
    assert not report.dropped
    assert detector.backbone.conv1.weight.equal(classifier.conv1.weight)


@pytest.mark.parametrize("old_names", [False, True])
def test_torchvision_s_architecture_is_read_from_its_shapes(tmp_path, old_names):
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=91
    )
    state = theirs.state_dict()
    if old_names:
        state = {_older(n): t for n, t in state.items() if "num_batches_tracked" not in n}
    torch.save(state, tmp_path / "theirs.pth")
    given = ModelConfig.model_validate(
        {"num_classes": 80, "box": {"score_threshold": 0.2}, "conventions": {"roi_aligned": True}}
    )
    detector = load_detector(tmp_path / "theirs.pth", given, short_side=320, long_side=512)
    config = detector.config
    assert (config.num_classes, config.backbone.depth, config.box.hidden) == (90, 50, 1024)
    assert config.mask.layers == 4
    assert detector.categories[0] == Category(1, "person")
    assert detector.categories[-1] == Category(90, "toothbrush")
    assert config.box.score_threshold == 0.2
    assert config.input.short_side == 320
    assert config.conventions.round_anchors
    assert config.conventions.roi_aligned  # stated, so it stays
    # v1 weights come from a frozen norm without epsilon; a trained norm has one.
    assert config.conventions.norm_epsilon == (0.0 if old_names else 1e-5)
    assert config.backbone.norm == ("frozen_bn" if old_names else "batch_norm")


def _older(name: str) -> str:
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
