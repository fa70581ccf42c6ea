"""Backbones of timm and of a user's function: their maps, what is trained, saving and loading."""

import json
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from model import build_detector, load_detector, save_detector
from model.backbones.build import build_backbone
from model.backbones.custom import CustomBackbone
from model.config import BackboneConfig, Conventions, ModelConfig
from model.config.settings import ConfigError, check_settings
from model.weights import WeightsError, load_network, load_weights

MODULE = """
import torch
from torch import nn
from model.backbones import custom_backbone

class Net(nn.Module):
    def __init__(self, width, strides=(4, 2, 2, 2), unused=False, norms=False, child="stages"):
        super().__init__()
        channels = [3, *(width << i for i in range(4))]
        self.child = child
        self.add_module(child, nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, s, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b, s in zip(channels, channels[1:], strides)
        ))
        self.norms = nn.ModuleList(nn.GroupNorm(1, c) for c in channels[1:]) if norms else None
        if unused:
            self.classifier = nn.Linear(8, 2)

    def forward(self, x):
        maps = []
        for i, stage in enumerate(self.get_submodule(self.child)):
            x = stage(x)
            maps.append(x if self.norms is None else self.norms[i](x))
        return maps

@custom_backbone
def make(width=8, **arguments):
    return Net(width, **arguments)

@custom_backbone
def fails():
    raise KeyError("no such layer")

@custom_backbone
def makes_none():
    return None

@custom_backbone
def one_map():
    return nn.Conv2d(3, 4, 3, 4, 1)

def unmarked():
    return Net(8)
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_nets.py").write_text(MODULE)
    sys.modules.pop("own_nets", None)
    yield tmp_path
    sys.modules.pop("own_nets", None)


def model_config(tiny_config, **backbone) -> ModelConfig:
    tree = tiny_config().model_dump(mode="json", exclude_unset=True) | {"backbone": backbone}
    return check_settings(ModelConfig, tree)


def backbone_of(**settings) -> CustomBackbone:
    backbone = build_backbone(check_settings(BackboneConfig, settings), Conventions())
    assert isinstance(backbone, CustomBackbone)
    return backbone


# The last one is a transformer that timm builds for a single size of image by default.
@pytest.mark.parametrize(
    "name", ["test_convnext", "test_resnet", "test_efficientnet", "swin_tiny_patch4_window7_224"]
)
def test_maps_of_timm_have_the_strides_of_a_pyramid(name):
    backbone = backbone_of(timm=name, frozen_stages=0, norm="batch_norm")
    with torch.no_grad():
        maps = backbone.eval()(torch.randn(2, 3, 96, 160))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, 96 // stride, 160 // stride)
        for channels, stride in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]
    assert backbone.unused_parameters() == []
    assert sorted(set(backbone.stages.values())) == [1, 2, 3, 4, 5]


def test_frozen_stages_and_norms_of_timm_stay_as_they_are(tiny_config):
    config = model_config(tiny_config, timm="test_efficientnet", frozen_stages=3)
    detector = build_detector(config).train()
    backbone = detector.backbone
    assert backbone.has_frozen_norms
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    sum(m.square().mean() for m in backbone(torch.randn(2, 3, 64, 64))).backward()
    optimizer.step()
    after = backbone.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    stages = {backbone.stage_of(name) for name in changed}
    assert stages == {4, 5}
    norms = {
        name
        for name, module in backbone.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    assert norms and not any(name.rpartition(".")[0] in norms for name in changed)


def test_a_backbone_of_a_function_is_saved_and_loaded(own_module, tiny_config):
    config = model_config(
        tiny_config, function="own_nets:make", arguments={"width": 4}, norm="batch_norm"
    )
    detector = build_detector(config).eval()
    assert detector.backbone.channels == (4, 8, 16, 32)
    save_detector(detector, own_module / "saved")
    loaded = load_network(own_module / "saved")
    pixels = torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(detector.backbone(pixels), loaded.backbone(pixels), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"function": "own_nets:unmarked"}, "not marked as a backbone; put @custom_backbone"),
        ({"function": "os:system", "arguments": {"command": "touch broken"}}, "not marked"),
        ({"function": "own_nets:missing"}, "has no function missing"),
        ({"function": "no_such_nets:make"}, "there is no module no_such_nets"),
        ({"function": "own_nets:fails"}, "failed: KeyError: 'no such layer'"),
        ({"function": "own_nets:makes_none"}, "must return a torch.nn.Module"),
        ({"function": "own_nets:one_map"}, r"must return four maps .* it returns Tensor"),
        (
            {"function": "own_nets:make", "arguments": {"strides": [2, 2, 2, 2]}},
            r"strides 4, 8, 16 and 32; .* it returns \(1, 8, 32, 48\)",
        ),
        ({"function": "own_nets:make", "arguments": {"depth": 3}}, "unexpected keyword argument"),
        ({"function": "own_nets:make", "frozen_stages": 3}, "frozen_stages has no effect"),
        ({"timm": "test_convnex"}, "did you mean test_convnext"),
        ({"timm": "vit_tiny_patch16_224"}, "needs, but of 16, 16"),
        ({"timm": "test_convnext", "arguments": {"no": 1}}, "timm cannot build test_convnext"),
        (
            {"timm": "test_convnext", "arguments": {"checkpoint_path": "x.pth"}},
            "not for a backbone",
        ),
        ({"timm": "hf-hub:someone/model"}, "timm"),
        ({"timm": "test_convnext", "function": "own_nets:make"}, "exclude each other"),
        ({"timm": "test_convnext", "features": "c4"}, "features is a setting of the ResNet"),
        ({"timm": "test_convnext", "norm": "group_norm"}, "norm must be frozen_bn or batch_norm"),
        ({"arguments": {"width": 4}}, "arguments are those of timm or function"),
    ],
)
def test_what_cannot_be_a_backbone_is_named(own_module, settings, message):
    with pytest.raises((ConfigError, RuntimeError), match=message):
        backbone_of(**settings)
    assert not (own_module / "broken").exists()


def test_a_saved_model_calls_nothing_but_a_marked_function(own_module, tiny_config):
    save_detector(build_detector(tiny_config()), own_module / "saved")
    file = own_module / "saved" / "model.json"
    document = json.loads(file.read_text())
    attack = {"function": "os:system", "arguments": {"command": "touch broken"}}
    document["config"]["backbone"] = attack
    file.write_text(json.dumps(document))
    (own_module / "saved" / "checksums.json").unlink(missing_ok=True)
    with pytest.raises((ConfigError, WeightsError), match="not marked as a backbone"):
        load_detector(own_module / "saved")
    assert not (own_module / "broken").exists()


def test_a_module_without_the_mark_is_not_even_imported(own_module):
    (own_module / "script.py").write_text("open('broken', 'w')\ndef make(): pass\n")
    for name in ("script:make", "this:make", "antigravity.x:make"):
        with pytest.raises(ConfigError, match="not marked as a backbone"):
            backbone_of(function=name)
        assert name.partition(":")[0] not in sys.modules
    assert not (own_module / "broken").exists()


def test_parameters_that_no_map_depends_on_are_listed(own_module):
    backbone = backbone_of(function="own_nets:make", arguments={"unused": True})
    assert backbone.unused_parameters() == ["classifier.weight", "classifier.bias"]
    assert backbone.training
    # RetinaNet does not read the first map, whose norm serves nothing else.
    backbone = backbone_of(function="own_nets:make", arguments={"norms": True})
    assert backbone.unused_parameters() == []
    assert backbone.unused_parameters(first_map=1) == ["norms.0.weight", "norms.0.bias"]


def test_dropped_paths_are_kept_in_frozen_stages():
    arguments = {"drop_path_rate": 0.9}
    image = torch.randn(1, 3, 64, 64)
    for frozen, is_same in ((5, True), (0, False)):
        backbone = backbone_of(timm="test_convnext", arguments=arguments, frozen_stages=frozen)
        first, *others = (backbone.train()(image)[-1] for _ in range(4))
        assert all(torch.equal(first, each) for each in others) == is_same


def test_windows_of_a_swin_transformer_are_shifted_in_every_stage():
    backbone = backbone_of(timm="swin_tiny_patch4_window7_224", frozen_stages=0)
    assert all(stage.blocks[1].shift_size == (3, 3) for stage in backbone.net.layers)


def test_checkpoints_of_activations_that_a_model_refuses_are_a_wrong_setting(own_module):
    backbone_of(timm="test_convnext").checkpoints_activations = True
    for backbone in (backbone_of(timm="dla34"), backbone_of(function="own_nets:make")):
        backbone.checkpoints_activations = False
        with pytest.raises(ConfigError, match=r"train\.activation_checkpointing"):
            backbone.checkpoints_activations = True


@pytest.mark.parametrize("child", ["stages", "net", "model", "head"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_weights_of_an_own_network_are_found_under_any_usual_name(
    own_module, tiny_config, child, prefix
):
    config = model_config(
        tiny_config, function="own_nets:make", arguments={"child": child, "width": 4}
    )
    detector = build_detector(config)
    own = detector.backbone.net.state_dict()
    tensors = {f"{prefix}{name}": torch.rand_like(t.float()) for name, t in own.items()}
    torch.save(tensors, "net.pth")
    report = load_weights(detector, "net.pth")
    loaded = detector.backbone.net.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    assert len(report.loaded) >= len(own) - len(counters)
    for name in own.keys() - counters:
        assert torch.equal(loaded[name], tensors[f"{prefix}{name}"])


def test_a_classifier_of_timm_fills_the_backbone(tiny_config, tmp_path):
    classifier = timm.create_model("test_convnext", num_classes=7)
    save_file(classifier.state_dict(), tmp_path / "classifier.safetensors")
    convention = Conventions(pixel_mean=(127.5,) * 3, pixel_std=(127.5,) * 3)
    config = model_config(tiny_config, timm="test_convnext")
    detector = build_detector(config.model_copy(update={"conventions": convention}))
    report = load_weights(detector, tmp_path / "classifier.safetensors")
    own = detector.backbone.net.state_dict()
    assert len(report.loaded) == len(own) and report.ecosystem == "timm"
    assert all(torch.equal(value, classifier.state_dict()[name]) for name, value in own.items())
    assert {name.split(".")[0] for name in report.ignored} == {"head"}
    assert report.notes == ()


def test_names_of_a_resnet_are_those_of_timm_in_a_timm_backbone(tiny_config, tmp_path):
    arguments = {"layers": [1, 1, 1, 1], "stem_width": 8}
    classifier = timm.create_model("resnet18", **arguments)
    torch.save(classifier.state_dict(), tmp_path / "resnet.pth")
    config = model_config(tiny_config, timm="resnet18", arguments=arguments)
    detector = build_detector(config)
    report = load_weights(detector, tmp_path / "resnet.pth")
    assert "backbone.net.layer4.0.conv2.weight" in report.loaded
    assert not any(name.startswith("backbone.") for name in report.missing_keys)


def test_weights_of_another_model_are_refused(tiny_config, tmp_path):
    detector = build_detector(model_config(tiny_config, timm="test_convnext"))
    save_file(timm.create_model("convnext_atto").state_dict(), tmp_path / "another.safetensors")
    with pytest.raises(WeightsError, match="does not fit this detector"):
        load_weights(detector, tmp_path / "another.safetensors")


def test_a_note_says_which_pixels_the_weights_of_timm_expect(tiny_config, tmp_path):
    save_file(timm.create_model("test_convnext").state_dict(), tmp_path / "w.safetensors")
    detector = build_detector(model_config(tiny_config, timm="test_convnext"))
    report = load_weights(detector, tmp_path / "w.safetensors")
    assert (
        "pixel_mean = [123.675, 116.28, 103.53] (the weights: [127.5, 127.5, 127.5])"
        in report.notes[0]
    )
