"""Tensors made from a layer's weights (folded, reordered, packed), kept until those change."""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

T = TypeVar("T")


@dataclass(frozen=True)
class _Source:
    """A tensor as it was when something was made from it."""

    # An alias: while it lives, no other tensor can come to lie at the same address.
    alias: Tensor
    version: int

    @classmethod
    def of(cls, tensor: Tensor) -> "_Source":
        return cls(tensor.detach(), tensor._version)

    def is_still(self, tensor: Tensor) -> bool:
        alias = self.alias
        return (
            alias.data_ptr() == tensor.data_ptr()
            and self.version == tensor._version
            and alias.dtype == tensor.dtype
            and alias.device == tensor.device
            and alias.shape == tensor.shape
            and alias.stride() == tensor.stride()
        )


@dataclass(frozen=True)
class _Derived:
    sources: tuple[_Source, ...]
    settings: Hashable
    value: Any

    def is_still_of(self, tensors: Sequence[Tensor], settings: Hashable) -> bool:
        return (
            self.settings == settings
            and len(self.sources) == len(tensors)
            and all(map(_Source.is_still, self.sources, tensors))
        )


# Beside the layers, not in them: what is derived belongs in no state_dict, pickle or copy. Threads
# that predict at once may both derive; they store equal values.
_KEPT: WeakKeyDictionary[nn.Module, _Derived] = WeakKeyDictionary()


def derived(
    layer: nn.Module, tensors: Sequence[Tensor], settings: Hashable, derive: Callable[[], T]
) -> T:
    """What ``derive`` makes of the tensors: kept with the layer until one of them changes.

    A change is another tensor, storage, type or layout, an operation in place as by
    ``load_state_dict``, or the step of any optimizer. Writing through ``tensor.data`` cannot be
    seen. Tensors born in inference mode count no changes: nothing is kept of them.

    Args:
        layer: owner; what is kept goes when it goes.
        tensors: everything ``derive`` reads.
        settings: everything else it depends on.
        derive: makes the value. One kind of value per layer.
    """
    if any(tensor.is_inference() for tensor in tensors):
        return derive()
    kept = _KEPT.get(layer)
    if kept is not None and kept.is_still_of(tensors, settings):
        value: T = kept.value
        return value
    _forget_when_an_optimizer_steps()
    sources = tuple(map(_Source.of, tensors))
    value = derive()
    _KEPT[layer] = _Derived(sources, settings, value)
    return value


@functools.cache
def _forget_when_an_optimizer_steps() -> None:
    # fused optimizers write without counting a version (torch 2.15)
    register_optimizer_step_post_hook(lambda *_: _KEPT.clear())
