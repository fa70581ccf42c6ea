"""Wrappers around the weights of a detector: entries of a checkpoint, and prefixes of names.

Training programs store weights beside optimizers and counters, and wrap the detector in modules of
their own: DistributedDataParallel, torch.compile, AveragedModel, a LightningModule.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

# Entries under which training programs store weights. Averaged ones (EMA) come first: they are what
# these programs evaluate, as timm and torchvision's references do.
AVERAGED_ENTRIES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema")
ENTRIES = ("model", "state_dict", "model_state_dict", "module", "blobs")

# DistributedDataParallel and AveragedModel, torch.compile, and usual names in a LightningModule. No
# supported library has parts of these names.
_WRAPPER = re.compile(r"(module|_orig_mod|model|net|network|detector)\.")
_COMPILED = re.compile(r"(?<=\.)_orig_mod\.")
_AVERAGED = re.compile(r"(ema|ema_model|model_ema|averaged_model)\.")
# Counters of averages, which are no weights.
_COUNTERS = frozenset({"n_averaged", "num_updates", "updates", "steps", "step", "initted", "decay"})


def find_entry(content: Mapping[str, object]) -> str | None:
    """Return the key of the weights in a checkpoint; None if it has none of the usual keys."""
    # MMEngine exchanges the two before it saves: its ema_state_dict are the weights in training.
    averages = () if "message_hub" in content else AVERAGED_ENTRIES
    entries = (*averages, *ENTRIES)
    return next((key for key in entries if isinstance(content.get(key), Mapping)), None)


def unwrap_names(tensors: Mapping[str, T]) -> tuple[dict[str, T], bool]:
    """Return weights under the detector's own names, and whether they are averaged ones.

    Args:
        tensors: by name. Of weights and their average in one module (``model.`` and ``ema.``), the
            average is returned.
    """
    tensors = {unwrap_name(name): tensor for name, tensor in tensors.items()}
    averaged = {
        unwrap_name(name[match.end() :]): tensor
        for name, tensor in tensors.items()
        if (match := _AVERAGED.match(name))
    }
    kept = averaged or tensors
    weights = {name: tensor for name, tensor in kept.items() if name not in _COUNTERS}
    return weights or dict(kept), bool(averaged)


def unwrap_name(name: str) -> str:
    """Return the name of a tensor without the wrappers around its detector."""
    while match := _WRAPPER.match(name):
        name = name[match.end() :]
    return _COMPILED.sub("", name)
