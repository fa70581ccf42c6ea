"""Match the classes of a detector, or of another split, with those of a dataset by their names.

Splits that were exported one by one often number their classes differently, or lack a rare one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from model.structures import Category

_SHOWN = 5


class ClassMismatchError(ValueError):
    """Two lists of classes have nothing in common; the message names some of both."""


@dataclass(frozen=True)
class ClassMatch:
    """The classes of a detector in the numbering of a dataset.

    Args:
        ids: category id of the detector -> category id of the dataset, or of ``without_objects``.
        without_objects: classes of the detector that the dataset lacks, with unused ids.
        unknown: names of the dataset's classes that the detector lacks.
    """

    ids: dict[int, int]
    without_objects: tuple[Category, ...] = ()
    unknown: tuple[str, ...] = ()

    def renumber(self, results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return COCO results with the dataset's category ids; those of nameless classes go."""
        return [
            {**result, "category_id": self.ids[result["category_id"]]}
            for result in results
            if result["category_id"] in self.ids
        ]


def match_classes(detector: Sequence[Category], dataset: Sequence[Category]) -> ClassMatch:
    """Match classes by name, regardless of case and of their numbers.

    A detector whose classes have no names (``class_1``, ``class_2``, ...) is matched by position.

    Args:
        detector: its classes, in order of their labels.
        dataset: the dataset's classes, in order.

    Raises:
        ClassMismatchError: no class is in both, or the number of nameless classes differs.
    """
    if _are_placeholders(detector) and not _are_placeholders(dataset):
        if len(detector) != len(dataset):
            raise ClassMismatchError(
                f"the detector has {len(detector)} classes without names and the dataset "
                f"{len(dataset)}, so they cannot be matched"
            )
        pairs = zip(detector, dataset, strict=True)
        return ClassMatch({ours.id: theirs.id for ours, theirs in pairs})
    by_name, own_names = _by_name(dataset), _by_name(detector)
    by_value = {(each.id, _normalized(each.name)): each.id for each in dataset}
    ids: dict[int, int] = {}
    for each in detector:
        name = _normalized(each.name)
        same = by_value.get((each.id, name))
        if same is None and name in own_names and name in by_name:
            same = by_name[name].id
        if same is not None:
            ids[each.id] = same
    if not ids:
        raise ClassMismatchError(
            f"no class has the same name: {_names(detector)}, and {_names(dataset)} in the dataset"
        )
    matched = set(ids.values())
    unknown = tuple(each.name for each in dataset if each.id not in matched)
    used = {each.id for each in dataset}
    free = (number for number in count(1) if number not in used)
    missing = [
        each for each in detector if each.id not in ids and _normalized(each.name) in own_names
    ]
    without_objects = tuple(Category(next(free), each.name) for each in missing)
    ids |= {each.id: new.id for each, new in zip(missing, without_objects, strict=True)}
    return ClassMatch(ids, without_objects, unknown)


def list_names(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _names(categories: Sequence[Category]) -> str:
    return list_names([category.name for category in categories])


def _normalized(name: str) -> str:
    return name.strip().casefold()


def _by_name(categories: Sequence[Category]) -> dict[str, Category]:
    """Return the classes whose name occurs once; COCO has several called "N/A"."""
    counts = Counter(_normalized(category.name) for category in categories)
    names = ((_normalized(category.name), category) for category in categories)
    return {name: category for name, category in names if counts[name] == 1}


def _are_placeholders(categories: Sequence[Category]) -> bool:
    """Whether the names are those that `build_detector` gives by default."""
    return all(each.name == f"class_{n}" for n, each in enumerate(categories, start=1))
