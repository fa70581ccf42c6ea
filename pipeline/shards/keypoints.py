"""The keypoints that a data set names, and COCO's way of counting their pixels.

COCO gives a keypoint as the number of the pixel that it lies in, counted from 0; here, as for boxes
and outlines, pixel n reaches from n to n + 1. So half a pixel lies between the two.

Letter: P keypoints of an object.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

PIXEL_CENTER = 0.5
"""Added to COCO's coordinates, taken from ours."""


@dataclass(frozen=True)
class KeypointSet:
    """What the points of the data set's objects are called.

    Args:
        names: P names.
        skeleton: links to draw, pairs of indices into names.
        category_ids: the categories that have such points.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]
    category_ids: tuple[int, ...]


def list_keypoints(categories: Sequence[Mapping[str, Any]]) -> KeypointSet | None:
    """The keypoints of COCO's ``categories``; None where none or differing ones are named.

    Raises:
        ValueError: names or links are not what COCO wants.
    """
    return combine_keypoints([_keypoints_of(category) for category in categories])


def combine_keypoints(sets: Sequence[KeypointSet | None]) -> KeypointSet | None:
    """The one set that categories, or parts of a data set, have where they have any.

    None where they differ in the names: a detector learns one set.
    """
    named = [each for each in sets if each is not None]
    if not named:
        return None
    lists = {each.names for each in named}
    if len(lists) > 1:
        logger.warning(
            "the categories name %d different lists of keypoints; a detector learns one, so all "
            "are left out. Split the data set to train them.",
            len(lists),
        )
        return None
    # A dictionary keeps the order, and says once what every category has.
    skeleton = dict.fromkeys(link for each in named for link in each.skeleton)
    category_ids = {number for each in named for number in each.category_ids}
    return KeypointSet(named[0].names, tuple(skeleton), tuple(sorted(category_ids)))


def _keypoints_of(category: Mapping[str, Any]) -> KeypointSet | None:
    if not category.get("keypoints"):
        return None
    names = tuple(map(str, category["keypoints"]))
    if len(set(names)) != len(names):
        raise ValueError(f"keypoint names must differ; got {list(names)}")
    skeleton = tuple(_link(link, len(names)) for link in category.get("skeleton") or ())
    return KeypointSet(names, skeleton, (int(category["id"]),))


def _link(link: Any, count: int) -> tuple[int, int]:
    if not (
        isinstance(link, list)
        and len(link) == 2
        and all(type(end) is int and 1 <= end <= count for end in link)
    ):
        raise ValueError(
            f"a skeleton must be pairs of keypoint numbers from 1 to {count}; got {link!r}"
        )
    return link[0] - 1, link[1] - 1


def coco_category_keypoints(keypoints: KeypointSet | None, category_id: int) -> dict[str, Any]:
    """What a COCO category says of its keypoints; nothing where it has none."""
    if keypoints is None or category_id not in keypoints.category_ids:
        return {}
    return {
        "keypoints": list(keypoints.names),
        "skeleton": [[first + 1, second + 1] for first, second in keypoints.skeleton],
    }


def coco_keypoints(points: Iterable[Sequence[float]]) -> list[float]:
    """Points x, y, visibility as COCO's flat list; points that are not labelled are 0, 0, 0."""
    flat: list[float] = []
    for x, y, visibility in points:
        labelled = visibility > 0
        flat += [x - PIXEL_CENTER, y - PIXEL_CENTER, int(visibility)] if labelled else [0, 0, 0]
    return flat
