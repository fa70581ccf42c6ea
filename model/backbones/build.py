"""The backbone that the settings describe."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from model.backbones.custom import CustomBackbone, custom_backbone, is_custom_backbone
from model.backbones.resnet import ResNet, ResNetStages
from model.backbones.timm_models import build_timm_backbone
from model.config import BackboneConfig, Conventions
from model.config.settings import ConfigError
from model.config.user_functions import call_function, find_function, find_source

Backbone = ResNet | CustomBackbone


def build_backbone(config: BackboneConfig, conventions: Conventions) -> Backbone:
    """Return a backbone with random weights: a ResNet, a timm model, or that of a function.

    Args:
        config: the settings.
        conventions: those of a ResNet; other backbones have none.

    Raises:
        ConfigError: a timm model or function does not exist, or returns no pyramid of maps.
        UserCodeError: the function fails.
        MissingPackagesError: timm is not installed.
    """
    if config.timm is not None:
        return build_timm_backbone(config)
    if config.function is not None:
        return _call_user_function(config.function, config)
    return ResNet(
        ResNetStages.from_config(config, conventions),
        frozen_stages=config.frozen_stages,
        last_stage=4 if config.features == "c4" else 5,
    )


def _call_user_function(name: str, config: BackboneConfig) -> CustomBackbone:
    function = _find_marked(name)
    net = call_function(function, name, config.arguments)
    if not isinstance(net, nn.Module):
        raise ConfigError(
            [
                f"model.backbone.function: {name} must return a torch.nn.Module; it returns a "
                f"{type(net).__name__}"
            ]
        )
    return CustomBackbone(net, name, config.norm != "frozen_bn")


def _find_marked(name: str) -> Callable[..., Any]:
    """Import a function with the mark of a backbone.

    Importing a module runs it, and the name may come from a stranger's model, so the mark is looked
    for in the module's file first.
    """
    module = name.partition(":")[0]
    source = find_source(module)
    if source is None and module.partition(".")[0] not in sys.stdlib_module_names:
        problem = f"{name}: there is no module {module} in {Path.cwd()} or installed"
        raise ConfigError([f"model.backbone.function: {problem}"])
    if source is not None and custom_backbone.__name__ in source.read_text(errors="replace"):
        function = find_function(name, "model.backbone.function")
        if is_custom_backbone(function):
            return function
    raise ConfigError(
        [
            f"model.backbone.function: {name} is not marked as a backbone; put @custom_backbone "
            "(from model.backbones import custom_backbone) above it"
        ]
    )
