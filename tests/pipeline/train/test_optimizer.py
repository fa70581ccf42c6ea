"""The optimizer's state resumes a run exactly."""

import copy

import pytest
import torch
from torch import nn

from pipeline.config import OptimizerConfig
from pipeline.train.optimizer import (
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)
from pipeline.train.parameter_groups import parameter_groups

CONFIG = OptimizerConfig(
    lr=0.1, weight_decay=0.3, bias_lr_factor=2.0, bias_weight_decay=0.0, norm_weight_decay=0.05
)


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1, bias=False))


def group_of(groups, parameter):
    (group,) = [g for g in groups if any(p is parameter for p in g["params"])]
    return group


def loss(model):
    return model(torch.ones(1, 3, 2, 2)).square().sum()


def step(model, optimizer):
    optimizer.zero_grad()
    loss(model).backward()
    optimizer.step()


def assert_equal_parameters(model, expected):
    for (name, a), b in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b), name


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
    assert_equal_parameters(resumed, whole)


def test_restored_optimizer_state_keeps_the_configured_hyperparameters():
    model = small_model()
    old = build_optimizer(model, CONFIG)
    step(model, old)
    new = build_optimizer(model, OptimizerConfig(lr=7.0, momentum=0.5, weight_decay=0.9))
    load_optimizer_state(new, model, optimizer_state(old, model))
    group = group_of(new.param_groups, model[0].weight)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (7.0, 0.5, 0.9)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_parameter_that_was_frozen_starts_without_momentum(kind):
    config = CONFIG.model_copy(update={"kind": kind})
    momentum = {"sgd": "momentum_buffer", "adamw": "exp_avg"}[kind]
    model = small_model()
    model[0].weight.requires_grad_(False)
    old = build_optimizer(model, config)
    step(model, old)
    state = optimizer_state(old, model)
    model[0].weight.requires_grad_(True)
    new = build_optimizer(model, config)
    load_optimizer_state(new, model, state)
    assert not new.state[model[0].weight].get(momentum, torch.zeros(1)).any()
    assert torch.equal(new.state[model[2].weight][momentum], state["2.weight"][momentum])

    before = model[0].weight.detach().clone()
    step(model, new)
    assert not torch.equal(model[0].weight, before)


@pytest.mark.parametrize(("old_kind", "new_kind"), [("sgd", "adamw"), ("adamw", "sgd")])
def test_state_of_another_kind_of_optimizer_is_not_restored(old_kind, new_kind, caplog):
    model, expected = small_model(), small_model()
    old = build_optimizer(model, CONFIG.model_copy(update={"kind": old_kind}))
    step(model, old)
    expected.load_state_dict(model.state_dict())
    config = CONFIG.model_copy(update={"kind": new_kind})
    resumed, fresh = build_optimizer(model, config), build_optimizer(expected, config)
    load_optimizer_state(resumed, model, optimizer_state(old, model))
    assert "another kind of optimizer" in caplog.text
    step(model, resumed)
    step(expected, fresh)
    assert_equal_parameters(model, expected)


def test_momentum_that_is_switched_on_in_a_resumed_run_starts_at_zero():
    model, expected = small_model(), small_model()
    old = build_optimizer(model, CONFIG.model_copy(update={"momentum": 0.0}))
    step(model, old)
    expected.load_state_dict(model.state_dict())
    resumed, fresh = build_optimizer(model, CONFIG), build_optimizer(expected, CONFIG)
    load_optimizer_state(resumed, model, optimizer_state(old, model))
    step(model, resumed)
    step(expected, fresh)
    assert_equal_parameters(model, expected)


@pytest.mark.usefixtures("uninitialized_memory_is_nan")
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_first_step_skipped_by_the_gradient_scaler_leaves_no_trace(kind):
    config = CONFIG.model_copy(update={"kind": kind})
    model, expected = small_model(), small_model()
    optimizer = build_optimizer(model, config)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for overflows in (True, False, False):
        optimizer.zero_grad()
        scaler.scale(loss(model)).backward()
        if overflows:
            model[0].weight.grad[0, 0, 0, 0] = float("inf")
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    optimizer = build_optimizer(expected, config)
    step(expected, optimizer)
    step(expected, optimizer)
    assert scaler.get_scale() == 2.0**15  # lowered once, by the overflow
    # Scales are powers of two: scaling and unscaling do not round.
    assert_equal_parameters(model, expected)


def test_sgd_takes_the_same_steps_as_torch():
    """Momentum buffers of zeros or none: the first momentum is the decayed gradient either way."""
    model, expected = small_model(), small_model()
    optimizer = build_optimizer(model, CONFIG)
    groups = parameter_groups(expected, CONFIG)
    torchs_own = torch.optim.SGD(groups, lr=CONFIG.lr, momentum=CONFIG.momentum, fused=True)
    for _ in range(3):
        step(model, optimizer)
        step(expected, torchs_own)
        assert_equal_parameters(model, expected)


def test_a_parameter_without_a_gradient_in_the_first_step_trains_later():
    model, expected = small_model(), small_model()
    optimizer = build_optimizer(model, CONFIG)
    loss(model).backward()
    model[2].weight.grad = None
    optimizer.step()
    assert torch.equal(model[2].weight, expected[2].weight)
    step(model, optimizer)
    assert not torch.equal(model[2].weight, expected[2].weight)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("saved", "resumed"),
    [
        (torch.contiguous_format, torch.channels_last),
        (torch.channels_last, torch.contiguous_format),
    ],
)
def test_restored_optimizer_state_takes_the_memory_format_of_its_parameter(kind, saved, resumed):
    """Fused optimizers go through parameter, gradient and state in memory order."""

    def step(model, optimizer):
        optimizer.zero_grad()
        model(torch.linspace(-1, 1, 150).view(2, 3, 5, 5)).square().sum().backward()
        optimizer.step()

    config = OptimizerConfig(kind=kind, lr=0.01)
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).to(memory_format=saved)
    optimizer = build_optimizer(whole, config)
    step(whole, optimizer)

    other = copy.deepcopy(whole).to(memory_format=resumed)
    restored = build_optimizer(other, config)
    state = copy.deepcopy(optimizer_state(optimizer, whole))  # both optimizers go on
    load_optimizer_state(restored, other, state)
    for parameter, state in restored.state.items():
        strides = {key: value.stride() for key, value in state.items() if key != "step"}
        assert strides == dict.fromkeys(strides, parameter.stride())

    step(whole, optimizer)
    step(other, restored)
    for a, b in zip(other.parameters(), whole.parameters(), strict=True):
        # Convolutions add in another order in another memory format.
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
