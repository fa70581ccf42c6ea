"""Keypoint sets of categories and of parts of a dataset merge if their names agree."""

from dataclasses import replace

import pytest

from pipeline.shards.keypoints import KeypointSet, merge_keypoint_sets, read_keypoint_set


def test_sets_with_the_same_names_merge_and_missing_ones_are_skipped():
    first = KeypointSet(("a", "b"), ((0, 1),), (1,))
    second = KeypointSet(("a", "b"), ((0, 1), (1, 0)), (2, 1))
    assert merge_keypoint_sets([first, None]) == first
    assert merge_keypoint_sets([first, second]) == KeypointSet(("a", "b"), second.skeleton, (1, 2))
    assert merge_keypoint_sets([None, None]) is None


def test_sets_with_different_names_do_not_merge():
    first = KeypointSet(("a", "b"), ((0, 1),), (1,))
    assert merge_keypoint_sets([first, replace(first, names=("b", "a"))]) is None


@pytest.mark.parametrize("skeleton", [[[0, 1]], [[1, 5]], [1, 2], [[1, 2, 3]], [["1", "2"]]])
def test_a_skeleton_must_link_existing_keypoints(skeleton):
    category = {"id": 1, "keypoints": ["a", "b", "c", "d"], "skeleton": skeleton}
    with pytest.raises(ValueError, match="skeleton links must be pairs"):
        read_keypoint_set([category])


def test_keypoint_names_must_be_unique():
    with pytest.raises(ValueError, match="names must be unique"):
        read_keypoint_set([{"id": 1, "keypoints": ["a", "b", "c", "a"]}])
