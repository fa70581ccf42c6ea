"""What a converter makes of foreign weights: our names, and what they take for granted."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from model.config import Conventions, ModelConfig
from model.structures import Category
from model.weights.report import WeightsError


@dataclass(frozen=True)
class StoredWeights:
    """A weights file's content as it stands.

    Args:
        tensors: under the file's own names.
        author: what the file says of its origin (detectron2's ``__author__``), or nothing.
    """

    tensors: Mapping[str, Tensor]
    author: str = ""


@dataclass(frozen=True)
class Conversion:
    """Weights under our names.

    Args:
        ecosystem: who wrote them.
        tensors: under our names; what nobody knows keeps its own.
        original_names: ours to theirs, where they differ.
        unneeded: their names of what a detector has no need of, with the reason.
        conventions: what the weights take for granted; None where nothing tells.
        config: of the detector that they fill; None for a backbone, or where nothing tells.
        categories: the classes, where known.
        not_honoured: conventions of theirs that our detector does not follow yet, with the size of
            the effect.
        assumed: what the file does not say and was guessed.
    """

    ecosystem: str
    tensors: Mapping[str, Tensor]
    original_names: Mapping[str, str] = field(default_factory=dict)
    unneeded: Mapping[str, str] = field(default_factory=dict)
    conventions: Conventions | None = None
    config: ModelConfig | None = None
    categories: Sequence[Category] = ()
    not_honoured: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True)
class RenamedTensors:
    """See :class:`Conversion`."""

    tensors: dict[str, Tensor]
    original_names: dict[str, str]
    unneeded: dict[str, str]


Replacement = str | Callable[[re.Match[str]], str]

# Of our layers, first match first: what reads architectures from shapes need not look again.
_DIMENSIONS = (
    (r".*\.(bias|running_mean|running_var)", 1),
    (r".*(\.bn\d|downsample\.1|norms\.\d+)\.weight", 1),
    (r"roi_heads\.box\.(fc\d+|class_logits|box_deltas)\.weight", 2),
    (r".*\.weight", 4),
)


def rename_tensors(
    tensors: Mapping[str, Tensor],
    renames: Sequence[tuple[str, Replacement]],
    unneeded: Sequence[tuple[str, str]] = (),
) -> RenamedTensors:
    """Give tensors our names.

    Args:
        tensors: under their names.
        renames: patterns and replacements; the first whose pattern matches the whole name counts.
        unneeded: patterns of names that are left out, with the reason.

    Raises:
        WeightsError: two tensors would bear one name.
    """
    result = RenamedTensors({}, {}, {})
    for name, tensor in tensors.items():
        reason = next((why for pattern, why in unneeded if re.fullmatch(pattern, name)), None)
        if reason is not None:
            result.unneeded[name] = reason
            continue
        ours = next(
            (m.expand(to) if isinstance(to, str) else to(m) for m, to in _matches(name, renames)),
            name,
        )
        if ours in result.tensors:
            other = result.original_names.get(ours, ours)
            raise WeightsError(f"{other} and {name} would both become {ours}")
        result.tensors[ours] = tensor
        if ours != name:
            result.original_names[ours] = name
    return result


def check_dimensions(renamed: RenamedTensors) -> None:
    """Refuse layers that bear a known name but are of another kind.

    Raises:
        WeightsError: a renamed tensor has not the dimensions of its layer, or no numbers.
    """
    for ours, name in renamed.original_names.items():
        shape = tuple(renamed.tensors[ours].shape)
        wanted = next((n for pattern, n in _DIMENSIONS if re.fullmatch(pattern, ours)), None)
        if wanted is not None and (len(shape) != wanted or 0 in shape):
            raise WeightsError(
                f"{name} must have {wanted} dimensions, none of them 0; got {shape}. Another model "
                "with the same names?"
            )


def _matches(
    name: str, renames: Sequence[tuple[str, Replacement]]
) -> list[tuple[re.Match[str], Replacement]]:
    found = ((re.fullmatch(pattern, name), to) for pattern, to in renames)
    return [(match, to) for match, to in found if match]
