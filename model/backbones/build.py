"""The backbone that the settings describe."""

from torch import nn

from model.backbones.custom import CustomBackbone, is_custom_backbone
from model.backbones.resnet import ResNet, ResNetStages
from model.backbones.timm_models import build_timm_backbone
from model.config import BackboneConfig, Conventions
from model.config.settings import ConfigError
from model.config.user_functions import call_function, find_function

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
    function = find_function(name, "model.backbone")
    if not is_custom_backbone(function):
        raise ConfigError(
            [
                f"model.backbone.function: {name} is not marked as a backbone; put "
                "@custom_backbone (from model.backbones import custom_backbone) above it"
            ]
        )
    net = call_function(function, name, config.arguments)
    if not isinstance(net, nn.Module):
        raise ConfigError(
            [
                f"model.backbone.function: {name} must return a torch.nn.Module; it returns a "
                f"{type(net).__name__}"
            ]
        )
    return CustomBackbone(net, name, config.norm != "frozen_bn")
