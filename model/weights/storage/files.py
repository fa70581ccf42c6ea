"""Reading and writing weights: our folders, and files of tensors alone.

Nothing is unpickled but tensors, arrays and plain containers.
"""

import json
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import ModelConfig
from model.detector import Detector
from model.structures import Category
from model.weights.conversion import StoredWeights
from model.weights.report import WeightsError
from model.weights.storage.unpickling import unpickle_arrays

FORMAT = 2
TENSORS, DESCRIPTION = "model.safetensors", "model.json"
# Training programs wrap their weights in one of these.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "blobs")
# The number before the pickle of torch.save before torch 1.6.
_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def save_detector(detector: Detector, folder: str | Path) -> None:
    """Write model.safetensors and model.json (format, config, categories) into ``folder``."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    # safetensors knows no memory layouts: channels innermost would be refused.
    tensors = {name: tensor.contiguous() for name, tensor in detector.state_dict().items()}
    save_file(tensors, target / TENSORS)
    description = {
        "format": FORMAT,
        "config": detector.config.model_dump(mode="json"),
        "categories": [category._asdict() for category in detector.categories],
    }
    (target / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    # safetensors' files are their owner's alone; on a shared disk others run the model.
    shutil.copymode(target / DESCRIPTION, target / TENSORS)


def read_description(folder: Path) -> tuple[ModelConfig, tuple[Category, ...]]:
    """The config and categories that :func:`save_detector` wrote.

    Raises:
        WeightsError: the file is absent, damaged or of another format.
    """
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text())
        if description["format"] != FORMAT:
            raise WeightsError(f"{path} has format {description['format']}; this reads {FORMAT}")
        config = ModelConfig.model_validate(description["config"])
        categories = tuple(Category(**category) for category in description["categories"])
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except (json.JSONDecodeError, KeyError, TypeError, ValidationError) as error:
        raise WeightsError(f"{path} does not describe a detector: {error}") from error
    return config, categories


def read_weights(path: Path) -> StoredWeights:
    """The tensors of a .safetensors file, of a pickle of arrays, or of what torch.save wrote.

    Raises:
        WeightsError: the file is absent, damaged, or holds something else than named tensors.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return StoredWeights(load_file(path))
        if path.suffix in (".pkl", ".pickle") and not _is_torch_file(path):
            return _unwrap(unpickle_arrays(path.read_bytes(), str(path)), path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than tensors, or is damaged; it is not loaded, because unpickling "
            f"runs code: {str(error).splitlines()[0]}"
        ) from error
    except WeightsError:
        raise
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise WeightsError(f"{path} is damaged or no weights file: {first_line}") from error
    return _unwrap(content, path)


def _is_torch_file(path: Path) -> bool:
    """Whether torch.save wrote it: a zip archive, or formerly a pickle of a certain number."""
    with path.open("rb") as file:
        head = file.read(16)
    return head.startswith(b"PK") or _TORCH_MAGIC in head


def _unwrap(content: object, path: Path) -> StoredWeights:
    author = ""
    while isinstance(content, Mapping):
        author = str(content.get("__author__", author))
        wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if wrapper is None:
            break
        content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no named tensors but {type(content).__name__}")
    tensors = {name: _tensor(value) for name, value in content.items()}
    odd = [str(key) for key, value in tensors.items() if value is None]
    if odd:
        raise WeightsError(f"{path} holds values that are no tensors: {', '.join(odd[:5])}")
    # DistributedDataParallel's prefix.
    return StoredWeights(
        {
            str(name).removeprefix("module."): tensor
            for name, tensor in tensors.items()
            if tensor is not None
        },
        author,
    )


def _tensor(value: object) -> Tensor | None:
    if isinstance(value, np.ndarray):
        # Unsigned integers of more than a byte, which torch lacks, are no weights.
        return torch.from_numpy(value) if value.dtype.kind in "fib" else None
    return value if isinstance(value, Tensor) else None
