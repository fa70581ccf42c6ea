"""Backbones other than our ResNet: any network that returns four maps of strides 4 to 32."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.config.settings import ConfigError

STRIDES = (4, 8, 16, 32)
_CHECKED_SIDES = (64, 96)
_MARK = "_is_maskrcnn_ray_backbone"

FunctionT = TypeVar("FunctionT", bound=Callable[..., nn.Module])


def custom_backbone(function: FunctionT) -> FunctionT:
    """Mark a function that returns a backbone, so that ``model.backbone.function`` can name it.

    A saved model names its function, and loading the model calls it with arguments from the
    model's file. The mark keeps a file from calling anything else.
    """
    setattr(function, _MARK, True)
    return function


def is_custom_backbone(function: Callable[..., object]) -> bool:
    """Whether a function has the mark of `custom_backbone`."""
    # Not getattr: a subclass would inherit the mark of a class.
    return getattr(function, "__dict__", {}).get(_MARK) is True


class CustomBackbone(nn.Module):
    """A network that returns the maps that a feature pyramid reads.

    Args:
        net: returns from (B, 3, H, W) normalized pixels the maps C2 to C5, each (B, channels,
            H / stride, W / stride) with the strides 4, 8, 16 and 32.
        name: what to call it in errors.
        trains_norms: train its batch norms; otherwise they keep their statistics, scales and
            shifts.
        stages: parameter of ``net`` -> its stage, 1 for the stem to 5; empty if unknown.
        frozen_stages: number of stages that are not trained, from the stem.

    Raises:
        ConfigError: it does not return such maps, or its stages are unknown and some are frozen.
    """

    def __init__(
        self,
        net: nn.Module,
        name: str,
        trains_norms: bool = False,
        stages: Mapping[str, int] | None = None,
        frozen_stages: int = 0,
    ) -> None:
        super().__init__()
        self.net = net
        self.name = name
        self.stages = dict(stages or {})
        self._checkpoints_activations = False
        norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
        self.has_frozen_norms = bool(norms) and not trains_norms
        frozen = {name for name, stage in self.stages.items() if stage <= frozen_stages}
        for parameter_name in frozen:
            net.get_parameter(parameter_name).requires_grad_(False)
        if not trains_norms:
            for norm in norms:
                norm.requires_grad_(False)
        # Frozen blocks as a whole, with what has no parameters in them, such as dropout.
        self._fixed = [
            *(module for name, module in net.named_modules() if _is_frozen(module, name, frozen)),
            *([] if trains_norms else norms),
        ]
        self.channels = self._check_maps()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return C2 to C5 of (B, 3, H, W) normalized pixels, as `ResNet` does."""
        return list(self.maps(x))

    def maps(self, x: Tensor) -> Sequence[Tensor]:
        """Call the network."""
        maps: Sequence[Tensor] = self.net(x)
        return maps

    def train(self, mode: bool = True) -> "CustomBackbone":
        """Set training mode, except for frozen stages and norms."""
        super().train(mode)
        for module in self._fixed:
            module.eval()
        return self

    def stage_of(self, name: str) -> int | None:
        """Return the stage, 1 for the stem to 5, of a parameter of this module; None if unknown."""
        return self.stages.get(name.removeprefix("net."))

    def unused_parameters(self, first_map: int = 0) -> list[str]:
        """Return the trainable parameters of the network that no map depends on.

        Args:
            first_map: the first of C2 to C5 that counts; 1 for RetinaNet, which does not read C2.
        """
        trainable = {name: p for name, p in self.net.named_parameters() if p.requires_grad}
        if not trainable:
            return []
        with torch.enable_grad():
            maps = self._maps_of_blank_image()[first_map:]
            total = torch.stack([m.sum() for m in maps]).sum()
            gradients = torch.autograd.grad(total, tuple(trainable.values()), allow_unused=True)
        pairs = zip(trainable, gradients, strict=True)
        return [name for name, gradient in pairs if gradient is None]

    @property
    def checkpoints_activations(self) -> bool:
        """Whether the network keeps few of its maps for the backward pass."""
        return self._checkpoints_activations

    @checkpoints_activations.setter
    def checkpoints_activations(self, value: bool) -> None:
        switch = getattr(self.net, "set_grad_checkpointing", None)
        if value and switch is None:
            raise ConfigError(
                [f"train.activation_checkpointing: {self.name} has no set_grad_checkpointing"]
            )
        try:
            if switch is not None:
                switch(value)
        except Exception as error:
            if value:  # models that do not support it may refuse to switch it off, too
                raise ConfigError(
                    [f"train.activation_checkpointing: {self.name} refuses it: {error}"]
                ) from error
        self._checkpoints_activations = value

    def _check_maps(self) -> tuple[int, ...]:
        """Return the channels of the maps of a small image, after checking their sizes."""
        height, width = _CHECKED_SIDES
        try:
            with torch.no_grad():
                maps = self._maps_of_blank_image()
        except Exception as error:
            raise ConfigError(
                [f"model.backbone: {self.name} fails on an image of {width} x {height}: {error}"]
            ) from error
        expected = [(height // stride, width // stride) for stride in STRIDES]
        is_maps = isinstance(maps, list | tuple) and all(isinstance(m, Tensor) for m in maps)
        shapes = [tuple(m.shape) for m in maps] if is_maps else [type(maps).__name__]
        if not is_maps or [shape[2:] for shape in shapes] != expected:
            listed = ", ".join(str(shape) for shape in shapes)
            raise ConfigError(
                [
                    f"model.backbone: {self.name} must return four maps (B, C, H, W) of strides "
                    f"4, 8, 16 and 32; of an image of {width} x {height} it returns {listed}"
                ]
            )
        return tuple(m.shape[1] for m in maps)

    def _maps_of_blank_image(self) -> Sequence[Tensor]:
        """Return the maps of a small blank image, computed in eval mode."""
        weight = next(self.parameters(), torch.empty(()))
        image = torch.zeros(1, 3, *_CHECKED_SIDES, device=weight.device, dtype=weight.dtype)
        was_training = self.training
        self.eval()
        try:
            return self.maps(image)
        finally:
            self.train(was_training)


def _is_frozen(module: nn.Module, name: str, frozen: Collection[str]) -> bool:
    """Whether a module has parameters, all of them among the frozen ones."""
    prefix = f"{name}." if name else ""
    names = [prefix + each for each, _ in module.named_parameters()]
    return bool(names) and all(each in frozen for each in names)
