"""The classes of several datasets together, matched by their names.

Shapes: K classes of one dataset.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from model.structures import Category
from pipeline.ingest.class_selection import find_classes


@dataclass(frozen=True)
class MergedClasses:
    """The classes of all datasets, and the label of each dataset's classes among them.

    Args:
        categories: label i is ``categories[i - 1]``.
        labels: for each dataset its K labels in the order of its classes; 0 is not selected.
        category_ids: for each dataset, id of its category -> id in ``categories``, if selected.
    """

    categories: tuple[Category, ...]
    labels: tuple[tuple[int, ...], ...]
    category_ids: tuple[dict[int, int], ...]


def merge_classes(
    datasets: Sequence[Sequence[Category]], selected: Sequence[str] = ()
) -> MergedClasses:
    """Match the classes of datasets by name, regardless of case and of their numbers.

    A class keeps the id that it has in the first dataset that has it, unless another class has
    that id.

    Args:
        datasets: the categories of each dataset, in order of their labels.
        selected: names of the classes to keep, in order; default: all, in order of appearance.

    Raises:
        ConfigError: no dataset has a selected class.
    """
    union: list[Category] = []
    ids: list[dict[int, int]] = []
    for categories in datasets:
        matched: dict[int, int] = {}
        for category in categories:
            matched[category.id] = _match(category, union, set(matched.values()))
        ids.append(matched)
    kept = tuple(union)
    if selected:
        kept = find_classes(union, selected, "the shards to merge")
    label_of = {category.id: label for label, category in enumerate(kept, 1)}
    return MergedClasses(
        categories=kept,
        labels=tuple(
            tuple(label_of.get(matched[category.id], 0) for category in categories)
            for categories, matched in zip(datasets, ids, strict=True)
        ),
        category_ids=tuple(
            {own: new for own, new in matched.items() if new in label_of} for matched in ids
        ),
    )


def _match(category: Category, union: list[Category], taken: set[int]) -> int:
    """Return the id of the same class in the union, which gets a new class if it has none.

    Args:
        category: a class of a dataset.
        union: the classes so far.
        taken: ids of the union that other classes of this dataset are; names may repeat in it.
    """
    name = category.name.strip().casefold()
    same = [
        each.id for each in union if each.name.strip().casefold() == name and each.id not in taken
    ]
    if same:
        return category.id if category.id in same else same[0]
    used = {each.id for each in union}
    new_id = category.id
    if new_id in used:
        new_id = next(number for number in count(1) if number not in used)
    union.append(Category(new_id, category.name))
    return new_id
