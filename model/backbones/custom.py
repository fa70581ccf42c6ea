"""Backbones other than our ResNet: any network that returns four maps of strides 4 to 32."""

from collections.abc import Callable, Mapping, Sequence
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
    return getattr(function, _MARK, None) is True


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
        for parameter_name, parameter in net.named_parameters():
            if parameter_name in frozen:
                parameter.requires_grad_(False)
        self._fixed_norms = [
            norm
            for norm in norms
            if not trains_norms or (norm.affine and not norm.weight.requires_grad)
        ]
        for norm in self._fixed_norms:
            norm.requires_grad_(False)
        self.channels = self._check_maps()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return C2 to C5 of (B, 3, H, W) normalized pixels, as `ResNet` does."""
        return list(self.maps(x))

    def maps(self, x: Tensor) -> Sequence[Tensor]:
        """Call the network."""
        maps: Sequence[Tensor] = self.net(x)
        return maps

    def train(self, mode: bool = True) -> "CustomBackbone":
        """Set training mode, but keep the statistics of frozen norms fixed."""
        super().train(mode)
        for norm in self._fixed_norms:
            norm.eval()
        return self

    def stage_of(self, name: str) -> int | None:
        """Return the stage, 1 for the stem to 5, of a parameter of this module; None if unknown."""
        return self.stages.get(name.removeprefix("net."))

    def unused_parameters(self) -> list[str]:
        """Return the trainable parameters of the network that no map depends on."""
        was_training = self.training
        self.eval()
        parameters = dict(self.net.named_parameters())
        trainable = {name: p for name, p in parameters.items() if p.requires_grad}
        if not trainable:
            return []
        with torch.enable_grad():
            total = torch.stack([m.sum() for m in self.maps(self._blank_image())]).sum()
            gradients = torch.autograd.grad(total, tuple(trainable.values()), allow_unused=True)
        self.train(was_training)
        pairs = zip(trainable, gradients, strict=True)
        return [name for name, gradient in pairs if gradient is None]

    @property
    def checkpoints_activations(self) -> bool:
        """Whether the network keeps few of its maps for the backward pass."""
        return self._checkpoints_activations

    @checkpoints_activations.setter
    def checkpoints_activations(self, value: bool) -> None:
        switch = getattr(self.net, "set_grad_checkpointing", None)
        if switch is not None:
            switch(value)
        elif value:
            raise ConfigError(
                [f"train.activation_checkpointing: {self.name} has no set_grad_checkpointing"]
            )
        self._checkpoints_activations = value

    def _check_maps(self) -> tuple[int, ...]:
        """Return the channels of the maps of a small image, after checking their sizes."""
        height, width = _CHECKED_SIDES
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                maps = self.maps(self._blank_image())
        except Exception as error:
            raise ConfigError(
                [f"model.backbone: {self.name} fails on an image of {width} x {height}: {error}"]
            ) from error
        self.train(was_training)
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

    def _blank_image(self) -> Tensor:
        weight = next(self.parameters(), torch.empty(()))
        return torch.zeros(1, 3, *_CHECKED_SIDES, device=weight.device, dtype=weight.dtype)
