"""Backbones from timm (Wightman 2019): its convolutional and hierarchical transformer models."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from model.backbones.custom import STRIDES, CustomBackbone
from model.config import BackboneConfig
from model.config.settings import ConfigError
from model.optional_packages import require_packages

_KEPT_OUT = (
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("features_only", "out_indices", "feature_cfg", "num_classes", "in_chans", "global_pool"),
    *("scriptable", "exportable", "no_jit"),
)


class TimmBackbone(CustomBackbone):
    """A timm model without its classifier, under timm's names of layers.

    Args:
        model: the whole model.
        name: its name.
        trains_norms: as for `CustomBackbone`.
        frozen_stages: as for `CustomBackbone`.

    Raises:
        ConfigError: its stages are not known, and some are frozen.
    """

    def __init__(self, model: nn.Module, name: str, trains_norms: bool, frozen_stages: int) -> None:
        infos = _maps_of(model)
        strides = [info["reduction"] for info in infos]
        # The last map of each stride.
        self._indices = [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES]
        everything = set(model.state_dict())
        prune: Any = model.prune_intermediate_layers
        prune(self._indices, prune_norm=True, prune_head=True)
        self.unused_names = frozenset(everything - set(model.state_dict()))
        """Tensors of the whole model that the backbone has not: classifier and last norm."""
        modules = [str(infos[index]["module"]) for index in self._indices]
        stages = _stages(model, modules)
        if frozen_stages and not stages:
            raise ConfigError(
                [
                    f"model.backbone.frozen_stages: the stages of {name} are not known; set 0 to "
                    "train all of it"
                ]
            )
        super().__init__(model, f"timm's {name}", trains_norms, stages, frozen_stages)

    def maps(self, x: Tensor) -> Sequence[Tensor]:
        """Return C2 to C5."""
        call: Any = self.net.forward_intermediates
        maps: Sequence[Tensor] = call(
            x, indices=self._indices, intermediates_only=True, output_fmt="NCHW"
        )
        return maps


def build_timm_backbone(config: BackboneConfig) -> TimmBackbone:
    """Return the timm model of these settings, with random weights.

    Raises:
        ConfigError: timm has no such model, its arguments are wrong, or it has no pyramid of maps.
        MissingPackagesError: timm is not installed.
    """
    assert config.timm is not None
    require_packages(f"the backbone {config.timm}", "timm", ["timm"])
    # Optional: a ResNet does not need it.
    import timm  # noqa: PLC0415

    if refused := [name for name in config.arguments if name in _KEPT_OUT]:
        raise ConfigError(
            [
                f"model.backbone.arguments.{name}: not for a backbone; train.weights names weights"
                for name in refused
            ]
        )
    if not timm.is_model(config.timm):
        similar = difflib.get_close_matches(config.timm.partition(".")[0], timm.list_models())
        known = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise ConfigError([f"model.backbone.timm: timm has no model {config.timm}{known}"])
    model = _create(config.timm, config.arguments)
    strides = [info["reduction"] for info in _maps_of(model)]
    if not set(STRIDES) <= set(strides) or not hasattr(model, "forward_intermediates"):
        raise ConfigError(
            [
                f"model.backbone.timm: {config.timm} has no maps of strides 4, 8, 16 and 32, "
                f"which a feature pyramid needs, but of {', '.join(map(str, strides)) or 'none'}"
            ]
        )
    # Swin Transformers are built for one size of image unless they are told otherwise, and do not
    # shift the windows of a map that fits into one at that size.
    any_size = {
        argument: value
        for argument, value in (("strict_img_size", False), ("always_partition", True))
        if any(hasattr(module, argument) for module in model.modules())
    }
    if any_size:
        model = _create(config.timm, any_size | config.arguments)
    return TimmBackbone(model, config.timm, config.norm != "frozen_bn", config.frozen_stages)


def _create(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    import timm  # noqa: PLC0415

    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    except Exception as error:
        raise ConfigError([f"model.backbone: timm cannot build {name}: {error}"]) from error
    return model


def _maps_of(model: nn.Module) -> Sequence[Mapping[str, Any]]:
    """Return what timm says of each map of a model: ``reduction`` (stride), ``module``."""
    return list(getattr(model, "feature_info", ()))


def _stages(model: nn.Module, modules: Sequence[str]) -> dict[str, int]:
    """Return the stage of every parameter: 1 before the layers of C2, then 2 to 5.

    Args:
        model: timm registers its layers in the order in which they run.
        modules: name of the last layer of C2 to C5.

    Returns:
        Parameter -> stage; empty if a layer has no parameters, so that its place is not known.
    """
    names = [name for name, _ in model.named_parameters()]
    ends = []
    for module in modules:
        places = [i for i, name in enumerate(names) if name.startswith(f"{module}.")]
        if not places:
            return {}
        if module == modules[0]:
            ends.append(places[0])
        ends.append(places[-1] + 1)
    if ends != sorted(ends):
        return {}
    ends[-1] = len(names)
    return {
        name: 1 + next(stage for stage, end in enumerate(ends) if i < end)
        for i, name in enumerate(names)
    }
