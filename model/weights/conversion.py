"""Steps that every converter shares: renaming tensors, checking them, and the converted weights."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.config import Conventions, ModelConfig
from model.structures import Category
from model.weights.report import WeightsError

OUR_ECOSYSTEM = "maskrcnn-ray"

Replacement = str | Callable[[re.Match[str]], str]
Renames = Sequence[tuple[str, Replacement]]
"""Pairs of a pattern for the whole name, and our name: a template or a function of the match."""


@dataclass(frozen=True)
class RenamedTensors:
    """Tensors under our names.

    Args:
        tensors: tensors by our name; one that no pattern matches keeps the file's name.
        original_names: our name to the file's, where they differ.
        ignored: the file's names of tensors that no detector needs, with the reason.
    """

    tensors: dict[str, Tensor]
    original_names: dict[str, str]
    ignored: dict[str, str]


@dataclass(frozen=True)
class ConvertedWeights:
    """Weights under our names, with all that is known about their detector.

    Args:
        ecosystem: the library that wrote them.
        tensors: see :class:`RenamedTensors`.
        original_names: see :class:`RenamedTensors`.
        ignored: see :class:`RenamedTensors`.
        conventions: what the weights assume; None if unknown.
        config: config of the detector that they fill; None for a backbone, or if unknown.
        categories: the classes, if known.
        approximations: what the detector does differently from theirs, with the size of the effect.
        assumptions: what the file does not say and was assumed.
    """

    ecosystem: str
    tensors: Mapping[str, Tensor]
    original_names: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    conventions: Conventions | None = None
    config: ModelConfig | None = None
    categories: Sequence[Category] = ()
    approximations: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


# Dimensions of our layers; the first match counts. Checked once, so that inferring the
# architecture from shapes can rely on them.
_DIMENSIONS = (
    (r".*\.(bias|running_mean|running_var)", 1),
    (r".*(\.bn\d|downsample\.1|norms\.\d+)\.weight", 1),
    (r"roi_heads\.box\.(fc\d+|class_logits|box_deltas)\.weight", 2),
    (r".*\.weight", 4),
)


def rename_tensors(
    tensors: Mapping[str, Tensor], renames: Renames, ignored: Sequence[tuple[str, str]] = ()
) -> RenamedTensors:
    """Rename tensors to our names.

    Args:
        tensors: under the file's names.
        renames: the first pattern that matches the whole name applies.
        ignored: patterns of names to leave out, with the reason.

    Raises:
        WeightsError: two tensors would get the same name.
    """
    result = RenamedTensors({}, {}, {})
    for name, tensor in tensors.items():
        reason = next((why for pattern, why in ignored if re.fullmatch(pattern, name)), None)
        if reason is not None:
            result.ignored[name] = reason
            continue
        ours = _renamed(name, renames)
        if ours in result.tensors:
            other = result.original_names.get(ours, ours)
            raise WeightsError(f"{other} and {name} would both become {ours}")
        result.tensors[ours] = tensor
        if ours != name:
            result.original_names[ours] = name
    return result


def _renamed(name: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement) if isinstance(replacement, str) else replacement(match)
    return name


def check_dimensions(renamed: RenamedTensors, kept: str = "\0") -> None:
    """Refuse tensors that have a known name but cannot be that layer's.

    Args:
        renamed: under our names.
        kept: prefix of names that are the same in the file.

    Raises:
        WeightsError: a renamed tensor has another number of dimensions than its layer, or is empty.
    """
    for ours, tensor in renamed.tensors.items():
        if ours not in renamed.original_names and not ours.startswith(kept):
            continue
        name, shape = renamed.original_names.get(ours, ours), tuple(tensor.shape)
        expected = next((n for pattern, n in _DIMENSIONS if re.fullmatch(pattern, ours)), None)
        if expected is not None and (len(shape) != expected or 0 in shape):
            raise WeightsError(
                f"{name} must have {expected} dimensions, none of them 0; got {shape}. Another "
                "model with the same names?"
            )


def refuse_unsupported(tensors: Mapping[str, Tensor], unsupported: Mapping[str, str]) -> None:
    """Refuse weights of a model that this library does not have.

    Args:
        tensors: under the file's names.
        unsupported: substrings of tensor names, and the model that each indicates.

    Raises:
        WeightsError: a tensor has such a name.
    """
    for part, model in unsupported.items():
        name = next((name for name in tensors if part in name), None)
        if name is not None:
            raise WeightsError(f"{model} is not supported (found the tensor {name})")


def add_identity_statistics(
    tensors: dict[str, Tensor], norms: Iterable[str], epsilon: float
) -> None:
    """Give norms stored as affine maps the statistics that leave the map unchanged.

    These are mean 0 and variance 1, less the epsilon that the norm will add. Norms that have
    statistics keep them.

    Args:
        tensors: under our names; changed in place.
        norms: names of the norms.
        epsilon: epsilon of the norms.
    """
    for norm in norms:
        if f"{norm}.running_var" not in tensors:
            weight = tensors[f"{norm}.weight"]
            tensors[f"{norm}.running_mean"] = torch.zeros_like(weight)
            tensors[f"{norm}.running_var"] = torch.full_like(weight, 1.0 - epsilon)
