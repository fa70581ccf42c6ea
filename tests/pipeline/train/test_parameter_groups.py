"""Parameters are grouped like in Detectron, and by the stages of the backbone."""

import pytest
import torch
from torch import nn

from model import ModelConfig, build_detector
from model.config.settings import ConfigError, check_settings
from pipeline.config import OptimizerConfig
from pipeline.train.optimizer import (
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)
from pipeline.train.parameter_groups import layer_factor, parameter_groups

CONFIG = OptimizerConfig(
    lr=0.1, weight_decay=0.3, bias_lr_factor=2.0, bias_weight_decay=0.0, norm_weight_decay=0.05
)
DECAYED = OptimizerConfig(layer_decay=0.5, backbone_lr_factor=0.1, bias_lr_factor=2.0)


def small_model():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1, bias=False))


def group_of(groups, parameter):
    (group,) = [g for g in groups if any(p is parameter for p in g["params"])]
    return group


def detector(features="fpn", frozen_stages=0, norm="batch_norm"):
    backbone = {"depth": 50, "width": 8, "norm": norm, "features": features}
    config = {
        "num_classes": 2,
        "backbone": {**backbone, "frozen_stages": frozen_stages},
        "fpn": {"channels": 8},
        "box": {"hidden": 8, "pool_side": 14 if features == "c4" else 7},
        "mask": None,
    }
    return build_detector(ModelConfig.model_validate(config))


def test_biases_have_twice_the_learning_rate_and_do_not_decay():
    model = small_model()
    groups = parameter_groups(model, CONFIG)
    for bias in (model[0].bias, model[1].bias):
        assert group_of(groups, bias)["lr_factor"] == 2.0
        assert group_of(groups, bias)["weight_decay"] == 0.0


def test_weights_and_norm_weights_have_their_own_decay():
    model = small_model()
    groups = parameter_groups(model, CONFIG)
    assert group_of(groups, model[0].weight)["weight_decay"] == 0.3
    assert group_of(groups, model[2].weight)["weight_decay"] == 0.3
    assert group_of(groups, model[1].weight)["weight_decay"] == 0.05


def test_without_a_decay_by_layer_there_are_three_groups():
    kinds = [(g["lr_factor"], g["weight_decay"]) for g in parameter_groups(detector(), CONFIG)]
    assert kinds == [(1.0, 0.3), (1.0, 0.05), (2.0, 0.0)]


@pytest.mark.parametrize("config", [CONFIG, DECAYED])
@pytest.mark.parametrize("frozen_stages", [0, 2, 5])
def test_every_trainable_parameter_is_in_one_group_and_no_frozen_one_in_any(config, frozen_stages):
    model = detector(frozen_stages=frozen_stages)
    groups = parameter_groups(model, config)
    assert all(group["params"] for group in groups)
    grouped = [p for group in groups for p in group["params"]]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sorted(map(id, grouped)) == sorted(map(id, trainable))


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("backbone.conv1.weight", 0.1 * 0.5**5),
        ("backbone.bn1.weight", 0.1 * 0.5**5),
        ("backbone.layer1.0.conv1.weight", 0.1 * 0.5**4),
        ("backbone.layer3.5.bn2.bias", 0.1 * 0.5**2),
        ("backbone.layer4.2.conv3.weight", 0.1 * 0.5),
        ("roi_heads.box.res5.0.conv1.weight", 0.1 * 0.5),
        ("fpn.lateral.0.weight", 1.0),
        ("rpn.head.convs.0.weight", 1.0),
        ("roi_heads.box.class_logits.weight", 1.0),
    ],
)
def test_the_learning_rate_falls_from_stage_to_stage(name, factor):
    assert layer_factor(name, DECAYED) == pytest.approx(factor)


@pytest.mark.parametrize("features", ["fpn", "c4"])
def test_each_parameter_of_a_detector_has_the_factor_of_its_layer(features):
    model = detector(features)
    groups = parameter_groups(model, DECAYED)
    stages = set()
    for name, parameter in model.named_parameters():
        of_kind = 2.0 if name.endswith(".bias") else 1.0
        expected = of_kind * layer_factor(name, DECAYED)
        assert group_of(groups, parameter)["lr_factor"] == expected, name
        stages.add(layer_factor(name, DECAYED))
    assert len(stages) == 6  # the heads, res5 to res2, the stem


def test_a_backbone_trains_slower_by_its_factor():
    model = detector(norm="group_norm")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = OptimizerConfig(lr=1.0, backbone_lr_factor=0.25, momentum=0.0, weight_decay=0.0)
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 1.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name in ("backbone.layer2.0.conv1.weight", "rpn.head.convs.0.weight"):
        moved = before[name] - model.get_parameter(name)
        expected = 0.25 if name.startswith("backbone") else 1.0
        assert torch.allclose(moved, torch.full_like(moved, expected)), name


def test_a_run_resumes_with_another_decay_by_layer():
    model = detector(norm="group_norm")
    old = build_optimizer(model, CONFIG)
    for parameter in model.parameters():
        parameter.grad = torch.rand_like(parameter)
    old.step()
    new = build_optimizer(model, DECAYED)
    load_optimizer_state(new, model, optimizer_state(old, model))
    for parameter in model.parameters():
        momentum = old.state[parameter]["momentum_buffer"]
        assert torch.equal(new.state[parameter]["momentum_buffer"], momentum)
    assert len(new.param_groups) > len(old.param_groups)


@pytest.mark.parametrize("layer_decay", [0.0, 1.5, -0.5])
def test_a_decay_by_layer_lies_above_zero_and_up_to_one(layer_decay):
    with pytest.raises(ConfigError, match=r"layer_decay: must be (greater|less)"):
        check_settings(OptimizerConfig, {"layer_decay": layer_decay})
