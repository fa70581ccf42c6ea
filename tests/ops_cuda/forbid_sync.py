"""A mode that fails where the host would wait for a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

SYNCING = {"nonzero", "_local_scalar_dense", "item", "masked_select", "unique2", "_unique2"}


class ForbidSync(TorchDispatchMode):
    """Raises at operators that need a device sync, on the CPU too."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indexes_by_mask = name in ("index", "index_put", "index_put_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if name in SYNCING or indexes_by_mask:
            raise RuntimeError(f"{function} needs a device sync")
        return function(*args, **(kwargs or {}))
