"""Raise where the host would wait for a GPU, on a machine without one."""

import contextlib
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.heads.count_on_host import CountOnHost

# Operators that return a value to the host, or a tensor whose size depends on values.
SYNCING = {
    *("nonzero", "argwhere", "masked_select", "bincount", "histc"),
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "unique_consecutive", "unique_dim"),
    *("unique", "unique2", "_unique", "_unique2", "unique_dim_consecutive"),
}
# Ours, likewise: kept boxes, run lengths.
OURS = {"nms", "batched_nms", "encode_roi_masks_rle", "compress_rle"}
# Operators that sync if an index is a mask.
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Functions that read CPU tensors without calling an operator, or copy values from the host and wait
# for the copy. What they do on a GPU is the same.
READING = ("tolist", "numpy", "__array__", "cpu", "new_tensor")


class ForbidSync(TorchDispatchMode):
    """A context in which everything that syncs with the device raises an AssertionError.

    Tensors on the CPU stand for those on the device. The one sync that is meant is allowed:
    `CountOnHost.read`.
    """

    def __init__(self):
        super().__init__()
        self._patches = contextlib.ExitStack()

    def __enter__(self):
        result = super().__enter__()
        for name in READING:
            self._patches.enter_context(mock.patch.object(torch.Tensor, name, refuse(name)))
        for name in ("tensor", "as_tensor"):
            plain = getattr(torch, name)
            self._patches.enter_context(mock.patch.object(torch, name, on_host_only(name, plain)))
        for owner, name, change in (
            (torch.Tensor, "to", refuse_named_cpu),
            (CountOnHost, "read", allow_tolist),
        ):
            changed = change(getattr(owner, name))
            self._patches.enter_context(mock.patch.object(owner, name, changed))
        return result

    def __exit__(self, *error):
        self._patches.close()
        return super().__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        indexes_by_mask = name in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        # How long the result is depends on the counts, unless it is given.
        counts_repeats = name == "repeat_interleave" and kwargs.get("output_size") is None
        counts_repeats &= any(isinstance(each, torch.Tensor) for each in args[-1:])
        is_ours = function.namespace == "ops_cuda" and name in OURS
        if name in SYNCING or indexes_by_mask or counts_repeats or is_ours:
            raise AssertionError(f"{name} syncs with the device")
        return function(*args, **kwargs)


def refuse(name):
    def read(*args, **kwargs):
        raise AssertionError(f"{name} syncs with the device")

    return read


def on_host_only(name, function):
    """Refuse to copy values to a named device: `tensor_on` does it without a sync."""

    def make(*args, **kwargs):
        if kwargs.get("device") is not None:
            raise AssertionError(f"{name} with a device syncs with it")
        return function(*args, **kwargs)

    return make


def refuse_named_cpu(to):
    """Refuse `to("cpu")`. To a device in a variable it is a move to where the network computes."""

    def move(tensor, *args, **kwargs):
        if any(isinstance(each, str) and each == "cpu" for each in (*args, *kwargs.values())):
            raise AssertionError("to('cpu') syncs with the device")
        return to(tensor, *args, **kwargs)

    return move


def allow_tolist(function):
    tolist = torch.Tensor.__mro__[1].tolist

    def call(self):
        with mock.patch.object(torch.Tensor, "tolist", tolist):
            return function(self)

    return call
