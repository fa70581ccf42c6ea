"""Cache of tensors computed from a layer's weights (folded, reordered, packed)."""

import functools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

T = TypeVar("T")


@dataclass(frozen=True)
class _Snapshot:
    """The state of a source tensor when the cached value was computed."""

    # An alias: as long as it lives, no other tensor can be allocated at the same address.
    alias: Tensor
    version: int

    @classmethod
    def take(cls, tensor: Tensor) -> "_Snapshot":
        return cls(tensor.detach(), tensor._version)

    def matches(self, tensor: Tensor) -> bool:
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
class _Entry:
    sources: tuple[_Snapshot, ...]
    settings: Hashable
    value: Any

    def matches(self, tensors: Sequence[Tensor], settings: Hashable) -> bool:
        return (
            self.settings == settings
            and len(self.sources) == len(tensors)
            and all(map(_Snapshot.matches, self.sources, tensors))
        )


# Outside the layers, so that cached values appear in no state_dict, pickle or copy. Threads that
# predict at the same time may both compute a value; they store equal ones.
_CACHE: WeakKeyDictionary[nn.Module, _Entry] = WeakKeyDictionary()


def cached_from_weights(
    layer: nn.Module, tensors: Sequence[Tensor], settings: Hashable, compute: Callable[[], T]
) -> T:
    """Return ``compute()``, cached until one of the tensors changes.

    A change is another tensor, storage, dtype or layout, an in-place operation such as
    ``load_state_dict``, or a step of an optimizer that has the tensor. Writes through
    ``tensor.data`` go unnoticed. The value is computed without gradients. Tensors created in
    inference mode have no version counter, so nothing is cached for them, nor for subclasses of
    ``Tensor`` (a tracer's).

    Args:
        layer: owner; the cached value is freed with it.
        tensors: every tensor that ``compute`` reads.
        settings: everything else the value depends on.
        compute: computes the value. Only one kind of value can be cached per layer.
    """
    is_plain = all(type(each) in (Tensor, nn.Parameter) for each in tensors)
    if not is_plain or any(tensor.is_inference() for tensor in tensors):
        return compute()
    entry = _CACHE.get(layer)
    if entry is not None and entry.matches(tensors, settings):
        value: T = entry.value
        return value
    _clear_after_optimizer_steps()
    sources = tuple(map(_Snapshot.take, tensors))
    # Tensors created in inference mode could not be used in training.
    with torch.inference_mode(False), torch.no_grad():
        value = compute()
    _CACHE[layer] = _Entry(sources, settings, value)
    return value


@functools.cache
def _clear_after_optimizer_steps() -> None:
    register_optimizer_step_post_hook(lambda optimizer, *_: _forget_weights_of(optimizer))


def _forget_weights_of(optimizer: Optimizer) -> None:
    # Fused optimizers modify weights without increasing their version (torch 2.15).
    stepped = {
        parameter.untyped_storage().data_ptr()
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for layer, entry in list(_CACHE.items()):
        if any(source.alias.untyped_storage().data_ptr() in stepped for source in entry.sources):
            _CACHE.pop(layer, None)
