"""Keypoint names, and what follows from them: the order after a flip, and the skeleton.

Shapes: P keypoints of an object.
"""

from collections.abc import Sequence

COCO_PERSON_KEYPOINTS = (
    "nose",
    *("left_eye", "right_eye", "left_ear", "right_ear"),
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow"),
    *("left_wrist", "right_wrist", "left_hip", "right_hip"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
"""The 17 keypoints of COCO's category person, in COCO's order."""

COCO_PERSON_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12)),
    *((5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
"""COCO's skeleton, as pairs of 0-based indices into the names (1-based in COCO's files)."""

_OPPOSITE = {"left": "right", "right": "left"}


def flip_order(names: Sequence[str]) -> tuple[int, ...]:
    """Return the index of each keypoint's counterpart under a horizontal flip.

    Keypoint i of the flipped object is keypoint ``flip_order(names)[i]`` of the original:
    ``flipped = keypoints[..., flip_order(names), :]``. ``left_x`` and ``right_x`` are a pair, and
    so are plain ``left`` and ``right``; every other keypoint is its own counterpart.

    Args:
        names: the P keypoint names.

    Returns:
        P indices; the permutation is its own inverse.

    Raises:
        ValueError: a name occurs twice, or a left or right keypoint has no counterpart.
    """
    index_of = {name: index for index, name in enumerate(names)}
    if len(index_of) != len(names):
        repeated = sorted({name for name in names if list(names).count(name) > 1})
        raise ValueError(f"keypoint names must be unique; repeated: {', '.join(repeated)}")
    order = []
    for name in names:
        side, underscore, rest = name.partition("_")
        opposite = f"{_OPPOSITE[side]}{underscore}{rest}" if side in _OPPOSITE else name
        if opposite not in index_of:
            raise ValueError(
                f"the keypoint {name} has no counterpart {opposite}; flipping an image needs both"
            )
        order.append(index_of[opposite])
    return tuple(order)


def skeleton_of(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return the skeleton to draw for these keypoints: COCO's for COCO's names, else none."""
    return COCO_PERSON_SKELETON if tuple(names) == COCO_PERSON_KEYPOINTS else ()
