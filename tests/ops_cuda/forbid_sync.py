"""Raise where the host would wait for a GPU, on a machine without one."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that return a value to the host, or a tensor whose size depends on values.
SYNCING = {
    "nonzero",
    "_local_scalar_dense",
    "item",
    "equal",
    "masked_select",
    "unique",
    "unique2",
    "_unique2",
}
# Operators that sync if an index is a mask.
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class ForbidSync(TorchDispatchMode):
    """A context in which operators that sync with the device raise an AssertionError."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indexes_by_mask = name in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in SYNCING or indexes_by_mask:
            raise AssertionError(f"{name} syncs with the device")
        return function(*args, **(kwargs or {}))
