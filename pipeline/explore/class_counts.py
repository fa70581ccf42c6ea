"""How often each class occurs in the splits of a dataset.

Shapes: G objects, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.structures import Category
from pipeline.explore.annotations import Annotations


@dataclass(frozen=True)
class ClassCount:
    """The occurrences of one class in one split.

    Args:
        images: number of images with an object of the class.
        objects: number of objects.
    """

    images: int = 0
    objects: int = 0


@dataclass(frozen=True)
class ClassRow:
    """One class in all splits.

    Args:
        name: of the class, as the first split that has it spells it.
        of_split: split -> counts; a split without the class is missing.
    """

    name: str
    of_split: dict[str, ClassCount]


def count_classes(annotations: Annotations, class_count: int) -> list[ClassCount]:
    """Return the occurrences of each class, (K,), without crowd regions."""
    objects = annotations.objects()
    per_class = np.bincount(objects.labels, minlength=class_count + 1)[1:]
    pairs = np.unique(np.stack([objects.labels, objects.image]), axis=1)
    images = np.bincount(pairs[0].astype(np.int64), minlength=class_count + 1)[1:]
    return [
        ClassCount(int(n), int(k)) for n, k in zip(images.tolist(), per_class.tolist(), strict=True)
    ]


def join_splits(
    splits: Mapping[str, tuple[Sequence[Category], Sequence[ClassCount]]],
) -> list[ClassRow]:
    """Match the classes of all splits by name, regardless of case; the first split's come first."""
    rows: dict[str, ClassRow] = {}
    for split, (categories, counts) in splits.items():
        for category, number in zip(categories, counts, strict=True):
            key = category.name.strip().casefold()
            row = rows.setdefault(key, ClassRow(category.name, {}))
            before = row.of_split.get(split, ClassCount())
            row.of_split[split] = ClassCount(
                before.images + number.images, before.objects + number.objects
            )
    return list(rows.values())
