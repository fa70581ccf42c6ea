"""Select some classes of a dataset, in an order of choice; objects of the others are left out."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from model.config.settings import ConfigError
from model.structures import Category
from pipeline.ingest.listing import Listing
from pipeline.shards.class_match import list_names
from pipeline.shards.keypoints import KeypointSet

_SIMILAR = 0.6


def select_classes(listing: Listing, names: Sequence[str]) -> Listing:
    """Return the listing with these classes alone, in this order; itself if there are no names.

    Annotations of other classes are counted in ``other_classes``. Those of unknown classes stay,
    to be quarantined.

    Args:
        listing: a dataset, or a part of one.
        names: names of the classes, spelled as in the dataset except for case.

    Raises:
        ConfigError: a name is not that of a class; the message has the nearest one.
    """
    if not names:
        return listing
    selected = find_classes(listing.categories, names, listing.name)
    ids = {category.id for category in selected}
    others = {category.id for category in listing.categories} - ids
    left_out = 0
    images = []
    for image in listing.images:
        kept = tuple(a for a in image.annotations if not _is_one_of(a.get("category_id"), others))
        left_out += len(image.annotations) - len(kept)
        images.append(replace(image, annotations=kept))
    return replace(
        listing,
        categories=selected,
        images=tuple(images),
        keypoints=_keypoints_of(listing.keypoints, ids),
        other_classes=listing.other_classes + left_out,
    )


def find_classes(
    categories: Sequence[Category], names: Sequence[str], dataset: str
) -> tuple[Category, ...]:
    """Return the categories with these names, in this order.

    Args:
        categories: the classes of a dataset.
        names: names, spelled as in the dataset except for case.
        dataset: what has these classes, for the error message.

    Raises:
        ConfigError: a name is not that of a category, or it is the name of several.
    """
    found: list[Category] = []
    problems = []
    for name in names:
        same = [each for each in categories if each.name == name]
        same = same or [each for each in categories if _folded(each.name) == _folded(name)]
        if len(same) == 1:
            found += same
        elif same:
            problems.append(f"data.classes: {dataset} has {len(same)} classes named {name!r}")
        else:
            problems.append(unknown_class(name, [each.name for each in categories], dataset))
    if problems:
        raise ConfigError(problems)
    return tuple(found)


def unknown_class(name: str, known: Iterable[str], dataset: str) -> str:
    """Return the message that a dataset has no class of this name."""
    names = list(known)
    nearest = nearest_class(name, names, _SIMILAR)
    hint = f"did you mean {nearest!r}?" if nearest else f"it has {list_names(names)}"
    return f"data.classes: {name!r} is not a class of {dataset}; {hint}"


def nearest_class(name: str, known: Iterable[str], similarity: float) -> str | None:
    """Return the most similar name; None if none is similar enough (0 to 1)."""
    folded = {_folded(each): each for each in known}
    close = difflib.get_close_matches(_folded(name), folded, 1, similarity)
    return folded[close[0]] if close else None


def _folded(name: str) -> str:
    return name.strip().casefold()


def _is_one_of(category_id: object, ids: set[int]) -> bool:
    # Other types are not hashable, or are unknown ids.
    return isinstance(category_id, int) and category_id in ids


def _keypoints_of(keypoints: KeypointSet | None, ids: set[int]) -> KeypointSet | None:
    if keypoints is None:
        return None
    kept = tuple(each for each in keypoints.category_ids if each in ids)
    return replace(keypoints, category_ids=kept) if kept else None
