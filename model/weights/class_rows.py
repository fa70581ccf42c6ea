"""Fine-tuning on other classes: a class of the same name keeps its weights.

Shapes: K classes. Row 0 is the background, which RetinaNet does not have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.structures import Category

# Layers whose shape depends on the classes, with their number of rows per class.
CLASS_LAYERS = {
    "roi_heads.box.class_logits": 1,
    "roi_heads.box.box_deltas": 4,
    "roi_heads.mask.logits": 1,
}
# RetinaNet's: one row per anchor of a cell and class, the classes of an anchor together.
ANCHOR_LAYER = "retinanet.class_logits"


@dataclass(frozen=True)
class ClassRows:
    """The detector's class layers with the file's rows copied in.

    Args:
        tensors: tensors by name, in the detector's shape.
        kept: names of classes that the file has.
        new: names of classes that stay at initialization.
    """

    tensors: dict[str, Tensor]
    kept: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


def is_class_layer(name: str) -> bool:
    """Return whether the tensor's shape depends on the classes."""
    return name.rpartition(".")[0] in (*CLASS_LAYERS, ANCHOR_LAYER)


def match_class_rows(
    tensors: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    theirs: Sequence[Category],
    ours: Sequence[Category],
) -> ClassRows:
    """Copy the rows of classes that the detector and the file have in common, matched by name.

    Args:
        tensors: the file's, under our names.
        own: the detector's, at initialization.
        theirs: the file's classes; label i is ``theirs[i - 1]``.
        ours: the detector's.

    Returns:
        No tensors if the classes of either side have no names, or if both sides have the same
        classes in the same order: then the rows are in place already.
    """
    if not theirs or _are_placeholders(ours) or _names(theirs) == _names(ours):
        return ClassRows({})
    their_labels = _labels(theirs)
    # Pairs of our label and the file's, the background first.
    pairs = [(0, 0)]
    for name, label in _labels(ours).items():
        if name in their_labels:
            pairs.append((label, their_labels[name]))
    kept = {label for label, _ in pairs[1:]}
    return ClassRows(
        _copy_rows(tensors, own, pairs, len(theirs))
        | _copy_anchor_rows(tensors, own, pairs[1:], len(theirs), len(ours)),
        kept=tuple(c.name for label, c in enumerate(ours, start=1) if label in kept),
        new=tuple(c.name for label, c in enumerate(ours, start=1) if label not in kept),
    )


def _copy_rows(
    tensors: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    pairs: Sequence[tuple[int, int]],
    theirs: int,
) -> dict[str, Tensor]:
    """Return the class layers of the ROI heads with the rows of ``pairs`` copied in.

    Args:
        tensors: the file's, under our names.
        own: the detector's, at initialization.
        pairs: our label and the file's.
        theirs: number of the file's classes.
    """
    result = {}
    to, origin = torch.tensor(pairs).unbind(1)
    for layer, rows in CLASS_LAYERS.items():
        for name in (f"{layer}.weight", f"{layer}.bias"):
            source, target = tensors.get(name), own.get(name)
            if source is None or target is None:
                continue
            if len(source) != rows * (theirs + 1) or source.shape[1:] != target.shape[1:]:
                continue
            copied = target.clone(memory_format=torch.contiguous_format)
            by_class = copied.view(-1, rows, *target.shape[1:])
            by_class[to] = source.reshape(-1, rows, *source.shape[1:])[origin].to(copied)
            result[name] = copied
    return result


def _copy_anchor_rows(
    tensors: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    pairs: Sequence[tuple[int, int]],
    theirs: int,
    ours: int,
) -> dict[str, Tensor]:
    """Return RetinaNet's class layer with the rows of ``pairs`` copied in, for every anchor.

    Args:
        tensors: the file's, under our names.
        own: the detector's, at initialization.
        pairs: our label and the file's.
        theirs: number of the file's classes.
        ours: number of the detector's.
    """
    result = {}
    for name in (f"{ANCHOR_LAYER}.weight", f"{ANCHOR_LAYER}.bias"):
        source, target = tensors.get(name), own.get(name)
        if source is None or target is None or source.shape[1:] != target.shape[1:]:
            continue
        if len(source) * ours != len(target) * theirs:
            continue  # another number of anchors
        copied = target.clone(memory_format=torch.contiguous_format)
        to, origin = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
        rows = source.reshape(-1, theirs, *source.shape[1:])[:, origin - 1]
        copied.view(-1, ours, *target.shape[1:])[:, to - 1] = rows.to(copied)
        result[name] = copied
    return result


def _names(categories: Sequence[Category]) -> list[str]:
    return [category.name.strip().casefold() for category in categories]


def _labels(categories: Sequence[Category]) -> dict[str, int]:
    """Return the label of each name that occurs once; COCO has several classes called "N/A"."""
    names = _names(categories)
    return {name: label for label, name in enumerate(names, start=1) if names.count(name) == 1}


def _are_placeholders(categories: Sequence[Category]) -> bool:
    """Return whether the names are those that ``build_detector`` gives by default."""
    return all(c.name == f"class_{i}" for i, c in enumerate(categories, start=1))
