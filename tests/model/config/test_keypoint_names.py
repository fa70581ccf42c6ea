"""A flip swaps left and right and is its own inverse; names that cannot be flipped are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config.keypoint_names import (
    COCO_PERSON_KEYPOINTS,
    COCO_PERSON_SKELETON,
    flip_order,
    skeleton_of,
)

paired_parts = st.lists(st.text("abc_", min_size=1, max_size=4), unique=True, max_size=5)
single_parts = st.lists(st.text("xyz", min_size=1, max_size=4), unique=True, max_size=5)


@given(paired_parts, single_parts, st.randoms(use_true_random=False))
def test_a_flip_swaps_pairs_keeps_the_rest_and_is_its_own_inverse(paired, single, random):
    names = [f"{side}_{part}" for part in paired for side in ("left", "right")] + single
    random.shuffle(names)
    order = flip_order(names)
    assert [order[order[n]] for n in range(len(names))] == list(range(len(names)))
    for name, source in zip(names, order, strict=True):
        swapped = name.replace("left_", "RIGHT_", 1).replace("right_", "left_", 1)
        assert names[source] == swapped.replace("RIGHT_", "right_", 1)


def test_coco_keypoints_flip_in_the_known_order():
    order = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert flip_order(COCO_PERSON_KEYPOINTS) == order
    assert flip_order(("tail", "left", "right")) == (0, 2, 1)


def test_the_coco_skeleton_is_symmetric():
    order = flip_order(COCO_PERSON_KEYPOINTS)
    links = {frozenset(link) for link in COCO_PERSON_SKELETON}
    assert {frozenset(order[end] for end in link) for link in links} == links
    assert len(links) == 19
    assert {end for link in links for end in link} == set(range(17))


def test_only_coco_names_have_a_skeleton():
    assert skeleton_of(list(COCO_PERSON_KEYPOINTS)) == COCO_PERSON_SKELETON
    assert skeleton_of(COCO_PERSON_KEYPOINTS[:5]) == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("nose", "left_eye"), "left_eye has no counterpart right_eye"),
        (("nose", "nose"), "must be unique; repeated: nose"),
    ],
)
def test_the_error_names_keypoints_that_cannot_be_flipped(names, message):
    with pytest.raises(ValueError, match=message):
        flip_order(names)
