"""What the points of an object are called, and what follows from the names.

Letter: P points of an object.
"""

from collections.abc import Sequence

COCO_PERSON_KEYPOINTS = (
    "nose",
    *("left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
"""The 17 points of COCO's category person, in its order."""

COCO_PERSON_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12)),
    *((5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
"""The links that COCO draws between them, as indices into the names; its files count from 1."""

_OPPOSITE = {"left": "right", "right": "left"}


def flip_order(names: Sequence[str]) -> tuple[int, ...]:
    """Where each point is found after left and right have changed places.

    Point i of the mirrored object is point ``flip_order(names)[i]`` of the object as it was:
    ``mirrored = points[..., flip_order(names), :]``. ``left_x`` and ``right_x`` are a pair, so are
    plain ``left`` and ``right``; every other point stays.

    Args:
        names: the P names.

    Returns:
        P indices; the order is its own inverse.

    Raises:
        ValueError: a name occurs twice, or a side has no counterpart.
    """
    index = {name: number for number, name in enumerate(names)}
    if len(index) != len(names):
        twice = sorted({name for name in names if list(names).count(name) > 1})
        raise ValueError(f"keypoint names must differ; {', '.join(twice)} occur more than once")
    order = []
    for name in names:
        side, underscore, rest = name.partition("_")
        opposite = f"{_OPPOSITE[side]}{underscore}{rest}" if side in _OPPOSITE else name
        if opposite not in index:
            raise ValueError(
                f"the keypoint {name} has no counterpart {opposite}; a flipped image needs both"
            )
        order.append(index[opposite])
    return tuple(order)


def skeleton_of(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """The links to draw between points of these names: COCO's for its own, none for others."""
    return COCO_PERSON_SKELETON if tuple(names) == COCO_PERSON_KEYPOINTS else ()
