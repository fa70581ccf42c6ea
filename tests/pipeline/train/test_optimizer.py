import pytest
import torch
from torch import nn

from pipeline.config import OptimizerConfig
from pipeline.train.optimizer import (
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    parameter_groups,
    set_learning_rate,
)

CONFIG = OptimizerConfig(
    lr=0.1, weight_decay=0.3, bias_lr_factor=2.0, bias_weight_decay=0.0, norm_weight_decay=0.05
)


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1, bias=False))


def group_of(groups, parameter):
    (group,) = [g for g in groups if any(p is parameter for p in g["params"])]
    return group


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(1, 3, 2, 2)).square().sum().backward()
    optimizer.step()


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


def test_every_trainable_parameter_is_in_one_group_and_no_frozen_one_in_any():
    model = small_model()
    model[0].weight.requires_grad_(False)
    grouped = [p for group in parameter_groups(model, CONFIG) for p in group["params"]]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert sorted(map(id, grouped)) == sorted(map(id, trainable))


def test_a_frozen_model_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(small_model().requires_grad_(False), CONFIG)


def test_set_learning_rate_keeps_the_groups_factors():
    model = small_model()
    optimizer = build_optimizer(model, CONFIG)
    set_learning_rate(optimizer, 0.5)
    assert group_of(optimizer.param_groups, model[0].weight)["lr"] == 0.5
    assert group_of(optimizer.param_groups, model[0].bias)["lr"] == 1.0


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_restored_optimizer_state_continues_as_if_never_interrupted(kind):
    config = CONFIG.model_copy(update={"kind": kind})
    whole, resumed = small_model(), small_model()
    optimizer = build_optimizer(whole, config)
    for _ in range(4):
        step(whole, optimizer)

    optimizer = build_optimizer(resumed, config)
    step(resumed, optimizer)
    step(resumed, optimizer)
    state = optimizer_state(optimizer, resumed)
    optimizer = build_optimizer(resumed, config)
    load_optimizer_state(optimizer, resumed, state)
    step(resumed, optimizer)
    step(resumed, optimizer)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_restored_optimizer_state_keeps_the_present_hyperparameters():
    model = small_model()
    old = build_optimizer(model, CONFIG)
    step(model, old)
    new = build_optimizer(model, OptimizerConfig(lr=7.0, momentum=0.5, weight_decay=0.9))
    load_optimizer_state(new, model, optimizer_state(old, model))
    group = group_of(new.param_groups, model[0].weight)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (7.0, 0.5, 0.9)


def test_a_parameter_that_was_frozen_starts_without_state():
    model = small_model()
    model[0].weight.requires_grad_(False)
    old = build_optimizer(model, CONFIG)
    step(model, old)
    state = optimizer_state(old, model)
    model[0].weight.requires_grad_(True)
    new = build_optimizer(model, CONFIG)
    load_optimizer_state(new, model, state)
    assert model[0].weight not in new.state
    assert torch.equal(
        new.state[model[2].weight]["momentum_buffer"], state["2.weight"]["momentum_buffer"]
    )
