"""The optimizer: how it is built, and how its state is saved and restored."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import OptimizerConfig
from pipeline.train.parameter_groups import parameter_groups

logger = logging.getLogger(__name__)


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build SGD with momentum or AdamW over ``parameter_groups``.

    Args:
        model: on its device and in its memory format, which SGD's momentum buffers take over.
        config: kind and hyperparameters.

    Raises:
        ValueError: the model has no trainable parameter.
    """
    groups = parameter_groups(model, config)
    if not groups:
        raise ValueError(
            "the model has no trainable parameter; lower model.backbone.frozen_stages?"
        )
    # fused: one kernel per step; with a gradient scaler it also avoids a device sync.
    match config.kind:
        case "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(
                groups, lr=config.lr, momentum=config.momentum, fused=True
            )
        case "adamw":
            optimizer = torch.optim.AdamW(
                groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True
            )
    _add_missing_momentum(optimizer)
    return optimizer


def _add_missing_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give each parameter of SGD that has no momentum buffer one of zeros.

    Left to itself, fused SGD creates uninitialized buffers in the first step and relies on that
    step to fill them, which the gradient scaler of fp16 skips if a gradient overflows. It also
    fails if some parameters of a group have buffers and others do not. With zeros the first
    momentum is the same: 0 * momentum + gradient. AdamW starts from zeros by itself.
    """
    for group in optimizer.param_groups:
        if not group.get("momentum"):
            continue
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to ``lr`` times its ``lr_factor``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> dict[str, dict[str, Any]]:
    """Return the optimizer's state by parameter name, without hyperparameters.

    Learning rates, decays and momenta are settings; a resumed run takes them from its config.
    """
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {names[parameter]: state for parameter, state in optimizer.state.items()}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, state: dict[str, dict[str, Any]]
) -> None:
    """Restore what ``optimizer_state`` returned; hyperparameters stay those of the config.

    A parameter without saved state, because it was frozen then, starts without momentum. So do all
    parameters if the state was saved by another kind of optimizer.
    """
    kept = {name: values for name, values in state.items() if _fits(optimizer, values)}
    if len(kept) < len(state):
        logger.warning(
            "the checkpoint holds the state of another kind of optimizer: momentum starts at zero"
        )
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    restored = {
        index: _in_memory_format_of(parameter, kept[names[parameter]])
        for index, parameter in enumerate(parameters)
        if names[parameter] in kept
    }
    optimizer.load_state_dict(
        {"state": restored, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    _add_missing_momentum(optimizer)


def _in_memory_format_of(parameter: Tensor, state: dict[str, Any]) -> dict[str, Any]:
    """Return a parameter's state with the strides of the parameter.

    Fused optimizers go through parameter, gradient and state in memory order, and a checkpoint
    written with another ``train.channels_last`` has its state in another order.
    """
    return {
        key: torch.empty_like(parameter, device=value.device).copy_(value)
        if isinstance(value, Tensor) and value.shape == parameter.shape
        else value  # AdamW's step count
        for key, value in state.items()
    }


def _fits(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> bool:
    """Return whether the saved state of a parameter comes from this kind of optimizer."""
    key = "momentum_buffer" if isinstance(optimizer, torch.optim.SGD) else "exp_avg"
    return key in state
