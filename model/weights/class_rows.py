"""A trained head for other classes: what has the same name keeps its weights.

Shapes: K classes of the detector; row 0 is the background's, which RetinaNet has none of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.structures import Category

# Rows of each class in the layers whose shape depends on the classes.
CLASS_LAYERS = {
    "roi_heads.box.class_logits": 1,
    "roi_heads.box.box_deltas": 4,
    "roi_heads.mask.logits": 1,
}
# RetinaNet's: a row for each anchor of a cell and class, the classes of an anchor together.
ANCHOR_LAYER = "retinanet.class_logits"


@dataclass(frozen=True)
class ClassRows:
    """The detector's class layers with the file's rows in place.

    Args:
        tensors: layers of the detector's shape, by name.
        kept: names of classes that the file knows.
        fresh: names of classes that stay at initialisation.
    """

    tensors: dict[str, Tensor]
    kept: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


def is_class_layer(name: str) -> bool:
    """Whether the tensor's shape depends on the classes."""
    return name.rpartition(".")[0] in (*CLASS_LAYERS, ANCHOR_LAYER)


def rows_by_name(
    tensors: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    theirs: Sequence[Category],
    ours: Sequence[Category],
) -> ClassRows:
    """Find each of our classes among the file's, by name.

    Args:
        tensors: the file's, under our names.
        own: the detector's, at initialisation.
        theirs: the file's classes; label i is ``theirs[i - 1]``.
        ours: the detector's.

    Returns:
        No tensors where either side's classes have no names, or both have the same ones: then the
        rows stand where they should.
    """
    if not theirs or _are_placeholders(ours) or _names(theirs) == _names(ours):
        return ClassRows({})
    their_label = _labels(theirs)
    found = {label: their_label.get(name) for name, label in _labels(ours).items()}
    pairs = [(0, 0), *((mine, other) for mine, other in found.items() if other is not None)]
    result = {}
    for layer, rows in CLASS_LAYERS.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            source, target = tensors.get(name), own.get(name)
            if source is None or target is None:
                continue
            if len(source) != rows * (len(theirs) + 1) or source.shape[1:] != target.shape[1:]:
                continue
            placed = target.clone(memory_format=torch.contiguous_format).view(
                -1, rows, *target.shape[1:]
            )
            to, origin = (torch.tensor(labels) for labels in zip(*pairs, strict=True))
            placed[to] = source.reshape(-1, rows, *source.shape[1:])[origin].to(placed)
            result[name] = placed.view(target.shape)
    result |= _rows_of_anchors(tensors, own, pairs[1:], len(theirs), len(ours))
    kept = {label for label, _ in pairs[1:]}
    return ClassRows(
        result,
        kept=tuple(c.name for label, c in enumerate(ours, start=1) if label in kept),
        fresh=tuple(c.name for label, c in enumerate(ours, start=1) if label not in kept),
    )


def _rows_of_anchors(
    tensors: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    pairs: Sequence[tuple[int, int]],
    theirs: int,
    ours: int,
) -> dict[str, Tensor]:
    """RetinaNet's class layer with the rows of ``pairs``, our label and the file's, in place."""
    result = {}
    for name in (f"{ANCHOR_LAYER}.weight", f"{ANCHOR_LAYER}.bias"):
        source, target = tensors.get(name), own.get(name)
        if source is None or target is None or source.shape[1:] != target.shape[1:]:
            continue
        if len(source) * ours != len(target) * theirs:
            continue  # other anchors
        placed = target.clone(memory_format=torch.contiguous_format)
        to, origin = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
        rows = source.reshape(-1, theirs, *source.shape[1:])[:, origin - 1]
        placed.view(-1, ours, *target.shape[1:])[:, to - 1] = rows.to(placed)
        result[name] = placed
    return result


def _names(categories: Sequence[Category]) -> list[str]:
    return [category.name.strip().casefold() for category in categories]


def _labels(categories: Sequence[Category]) -> dict[str, int]:
    """Labels of the names that occur once; several classes are called "N/A" in COCO."""
    names = _names(categories)
    return {name: label for label, name in enumerate(names, start=1) if names.count(name) == 1}


def _are_placeholders(categories: Sequence[Category]) -> bool:
    """Whether the names are those that ``build_detector`` gives where none are known."""
    return all(c.name == f"class_{i}" for i, c in enumerate(categories, start=1))
