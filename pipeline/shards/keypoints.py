"""The keypoints a dataset defines, and their conversion from and to COCO's pixel coordinates.

COCO gives a keypoint as the index of the pixel it lies in, counted from 0. Here, as for boxes and
polygons, pixel n spans n to n + 1, so the two differ by half a pixel.

Shapes: P keypoints.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)

PIXEL_CENTER = 0.5
"""Added to COCO's coordinates to get ours, subtracted from ours to get COCO's."""


@dataclass(frozen=True)
class KeypointSet:
    """Keypoint names and skeleton of a dataset.

    `Manifest.digest` hashes the repr of this class: renaming it or a field changes every digest.

    Args:
        names: P keypoint names.
        skeleton: links to draw, as pairs of indices into names.
        category_ids: the categories whose objects have these keypoints.
    """

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]
    category_ids: tuple[int, ...]


def read_keypoint_set(categories: Sequence[Mapping[str, Any]]) -> KeypointSet | None:
    """Read the keypoints of COCO ``categories``; None if they define none, or different ones.

    Raises:
        ValueError: the keypoint names or the skeleton are not in COCO's format.
    """
    return merge_keypoint_sets([_keypoints_of_category(category) for category in categories])


def merge_keypoint_sets(sets: Sequence[KeypointSet | None]) -> KeypointSet | None:
    """Merge the keypoints of several categories, or of several parts of a dataset.

    A detector learns one list of keypoints, so the result is None if the names differ.
    """
    defined = [each for each in sets if each is not None]
    if not defined:
        return None
    name_lists = {each.names for each in defined}
    if len(name_lists) > 1:
        logger.warning(
            "the categories define %d different lists of keypoints, but a detector learns only "
            "one, so all keypoints are left out; to train on them, split the dataset by list",
            len(name_lists),
        )
        return None
    # A dictionary drops duplicate links and keeps their order.
    skeleton = dict.fromkeys(link for each in defined for link in each.skeleton)
    category_ids = {category_id for each in defined for category_id in each.category_ids}
    return KeypointSet(defined[0].names, tuple(skeleton), tuple(sorted(category_ids)))


def _keypoints_of_category(category: Mapping[str, Any]) -> KeypointSet | None:
    if not category.get("keypoints"):
        return None
    names = tuple(map(str, category["keypoints"]))
    if len(set(names)) != len(names):
        raise ValueError(f"keypoint names must be unique; got {list(names)}")
    skeleton = tuple(_link(link, len(names)) for link in category.get("skeleton") or ())
    return KeypointSet(names, skeleton, (int(category["id"]),))


def _link(link: Any, count: int) -> tuple[int, int]:
    if not (
        isinstance(link, list)
        and len(link) == 2
        and all(type(end) is int and 1 <= end <= count for end in link)
    ):
        raise ValueError(
            f"skeleton links must be pairs of keypoint numbers from 1 to {count}; got {link!r}"
        )
    return link[0] - 1, link[1] - 1


def coco_category_keypoints(keypoints: KeypointSet | None, category_id: int) -> dict[str, Any]:
    """Return the ``keypoints`` and ``skeleton`` entries of a COCO category; {} if it has none."""
    if keypoints is None or category_id not in keypoints.category_ids:
        return {}
    return {
        "keypoints": list(keypoints.names),
        "skeleton": [[first + 1, second + 1] for first, second in keypoints.skeleton],
    }


def coco_keypoints(points: Iterable[Sequence[float]]) -> list[float]:
    """Convert (x, y, visibility) points to COCO's flat list; unlabeled points become 0, 0, 0."""
    flat: list[float] = []
    for x, y, visibility in points:
        labeled = visibility > 0
        flat += [x - PIXEL_CENTER, y - PIXEL_CENTER, int(visibility)] if labeled else [0, 0, 0]
    return flat
