"""The optimiser: which parameters train, at which share of the rate, with which decay."""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import OptimizerConfig

NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Trainable parameters in three groups: weights, norm weights, biases.

    Each group carries ``lr_factor``, its rate relative to the schedule's. Frozen parameters
    (``requires_grad`` off) are left out, and so are empty groups.

    Source: Detectron doubles the rate of biases and does not decay them.
    """
    weights, norm_weights, biases = [], [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                biases.append(parameter)
            elif isinstance(module, NORM_LAYERS):
                norm_weights.append(parameter)
            else:
                weights.append(parameter)
    groups = [
        {"params": weights, "lr_factor": 1.0, "weight_decay": config.weight_decay},
        {"params": norm_weights, "lr_factor": 1.0, "weight_decay": config.norm_weight_decay},
        {
            "params": biases,
            "lr_factor": config.bias_lr_factor,
            "weight_decay": config.bias_weight_decay,
        },
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over ``parameter_groups``.

    Raises:
        ValueError: nothing in the model trains.
    """
    groups = parameter_groups(model, config)
    if not groups:
        raise ValueError(
            "the model has no trainable parameter; lower model.backbone.frozen_stages?"
        )
    # fused: one kernel per step, and under a gradient scaler no wait for the device.
    match config.kind:
        case "sgd":
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
        case "adamw":
            return torch.optim.AdamW(
                groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True
            )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]


def optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> dict[str, dict[str, Any]]:
    """The optimiser's memory by parameter name, without rates and decays: those are settings."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {names[parameter]: state for parameter, state in optimizer.state.items()}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, state: dict[str, dict[str, Any]]
) -> None:
    """Give back what ``optimizer_state`` returned; rates, decays and momenta stay the present ones.

    A parameter that has no memory (it was frozen then) starts without.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    memory = {
        index: state[names[parameter]]
        for index, parameter in enumerate(parameters)
        if names[parameter] in state
    }
    optimizer.load_state_dict(
        {"state": memory, "param_groups": optimizer.state_dict()["param_groups"]}
    )
