"""Tensors of a weights file. Only tensors, arrays and plain containers are ever unpickled."""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from model.weights.report import WeightsError
from model.weights.storage.mmengine_log import is_mmengine_log, without_mmengine_log
from model.weights.storage.unpickling import unpickle_arrays
from model.weights.storage.wrappers import (
    AVERAGED_ENTRIES,
    ENTRIES,
    find_entry,
    unwrap_names,
)

# The number before the pickle of torch.save before torch 1.6.
_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


@dataclass(frozen=True)
class StoredWeights:
    """The content of a weights file.

    Args:
        tensors: under the file's own names.
        author: what the file says about its origin (detectron2's ``__author__``), or nothing.
        averaged: whether they are the average (EMA) that the file keeps beside other weights.
        meta: what the file says about the training (MMDetection's ``meta``): class names, the text
            of the config.
    """

    tensors: Mapping[str, Tensor]
    author: str = ""
    averaged: bool = False
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_weights_file(path: Path) -> StoredWeights:
    """Read a .safetensors file, a pickle of arrays, or what torch.save wrote.

    Raises:
        WeightsError: the file is missing, damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return StoredWeights(unwrap_names(load_file(path))[0])
        if path.suffix in (".pkl", ".pickle") and not _is_torch_file(path):
            return _unwrap(unpickle_arrays(path.read_bytes(), str(path)), path)
        content = _load_torch_file(path)
    except pickle.UnpicklingError as error:
        # The first sentence only: torch goes on to recommend weights_only=False.
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise WeightsError(
            f"{path} is damaged, not a weights file, or holds more than tensors, which is not "
            f"loaded because unpickling runs code. Save the weights alone. ({reason})"
        ) from error
    except WeightsError:
        raise
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(
            f"{path} is damaged or not a weights file ({first_line}); replace it with an intact "
            "copy, or use another one"
        ) from error
    return _unwrap(content, path)


def _load_torch_file(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not is_mmengine_log(error):
            raise
    with without_mmengine_log():
        return torch.load(path, map_location="cpu", weights_only=True)


def check_finite(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raise if a weight is NaN or infinite, as no trained one is.

    Args:
        tensors: weights by name.
        source: names the weights in the error message.

    Raises:
        WeightsError: names the first such tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(
                f"{source} is damaged: {name} has values that are NaN or infinite; replace it with "
                "an intact copy, or use another one"
            )


def _is_torch_file(path: Path) -> bool:
    """Return whether torch.save wrote it: a zip archive, or formerly a pickle with its number."""
    with path.open("rb") as file:
        head = file.read(16)
    return head.startswith(b"PK") or _TORCH_MAGIC in head


def _unwrap(content: object, path: Path) -> StoredWeights:
    author, averaged = "", False
    meta: Mapping[str, Any] = {}
    while isinstance(content, Mapping):
        author = str(content.get("__author__", author))
        if isinstance(content.get("meta"), Mapping):
            meta = content["meta"]
        entry = find_entry(content)
        if entry is None:
            break
        averaged |= entry in AVERAGED_ENTRIES
        content = content[entry]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(
            f"{path} must hold tensors by name; got "
            + ("nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}")
        )
    values, is_average = unwrap_names({str(name): value for name, value in content.items()})
    tensors = {name: _to_tensor(value) for name, value in values.items()}
    others = [f"{name} ({_describe(values[name])})" for name in values if tensors[name] is None]
    if others:
        raise WeightsError(
            f"{path} holds values that are not tensors: {', '.join(others[:5])}. Weights are found "
            f"under {', '.join((*AVERAGED_ENTRIES, *ENTRIES))}, or alone in the file"
        )
    named = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return StoredWeights(named, author, averaged or is_average, meta)


def _describe(value: object) -> str:
    kind = type(value).__name__
    return f"{kind} of {len(value)}" if isinstance(value, Mapping) else kind


def _to_tensor(value: object) -> Tensor | None:
    if isinstance(value, np.ndarray):
        # Weights are never unsigned integers, most of which torch supports only in part.
        return torch.from_numpy(value) if value.dtype.kind in "fib" else None
    return value if isinstance(value, Tensor) else None
