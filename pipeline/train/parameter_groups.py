"""Trainable parameters in groups: each with its learning rate factor and weight decay."""

import re
from collections.abc import Callable
from typing import Any

from torch import nn

from model.config.settings import ConfigError
from pipeline.config import OptimizerConfig

NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)

# With C4 features, res5 is the box head, but its weights are pretrained like the other stages'.
_STAGE = re.compile(r"backbone\.layer([1-4])\.|(roi_heads\.box\.res5)\.")
_STAGES = 4


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the trainable parameters by kind (weights, norm weights, biases) and learning rate.

    Each group carries ``lr_factor``, its learning rate relative to the schedule's. Frozen
    parameters (``requires_grad`` off) and empty groups are left out.

    Source: Detectron doubles the learning rate of biases and does not decay them; Clark et al. 2020
    (ELECTRA), appendix A, for the decay by layer; Carion et al. 2020 (DETR), section 4, for a
    factor of the whole backbone.
    """
    kinds = {
        "weight": (1.0, config.weight_decay),
        "norm weight": (1.0, config.norm_weight_decay),
        "bias": (config.bias_lr_factor, config.bias_weight_decay),
    }
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    stage_of = getattr(getattr(model, "backbone", None), "stage_of", None)
    if stage_of is not None:
        _check_stages(model.backbone, config)  # type: ignore[arg-type]
    for kind, (kind_factor, weight_decay) in kinds.items():
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and _kind(module, name, parameter) == kind:
                    factor = kind_factor * layer_factor(f"{prefix}.{name}", config, stage_of)
                    group = {"params": [], "lr_factor": factor, "weight_decay": weight_decay}
                    groups.setdefault((kind, factor), group)["params"].append(parameter)
    return list(groups.values())


def layer_factor(
    name: str, config: OptimizerConfig, stage_of: Callable[[str], int | None] | None = None
) -> float:
    """Return the learning rate of a layer, relative to that of the pyramid and the heads.

    Args:
        name: name of a parameter in the detector, ``backbone.layer1.0.conv1.weight``.
        config: its ``backbone_lr_factor`` and ``layer_decay`` apply to the backbone.
        stage_of: of a `CustomBackbone`; None for a ResNet.
    """
    if stage_of is not None and name.startswith("backbone."):
        custom_stage = stage_of(name.removeprefix("backbone.")) or 1
        return config.backbone_lr_factor * config.layer_decay ** (_STAGES + 2 - custom_stage)
    match = _STAGE.match(name)
    if match is None and not name.startswith("backbone."):
        return 1.0
    # The stem is stage 0; res2 to res5 are stages 1 to 4.
    stage = 0 if match is None else int(match[1] or _STAGES)
    return config.backbone_lr_factor * config.layer_decay ** (_STAGES + 1 - stage)


def _check_stages(backbone: nn.Module, config: OptimizerConfig) -> None:
    if config.layer_decay != 1.0 and not backbone.stages:
        raise ConfigError(
            [
                f"train.optimizer.layer_decay: the stages of {backbone.name} are not known; set 1, "
                "or backbone_lr_factor for the whole backbone"
            ]
        )


def _kind(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    if name == "bias":
        return "bias"
    # Scales per channel that other layers than norms have (ConvNeXt) are no matrices either.
    is_scale = isinstance(module, NORM_LAYERS) or parameter.ndim < 2
    return "norm weight" if is_scale else "weight"
