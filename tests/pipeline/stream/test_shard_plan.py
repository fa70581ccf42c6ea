"""Laws of the shard plan, for any dataset, batch and number of workers."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.aspect_bins import BIN_COUNT, aspect_bins
from pipeline.stream.shard_plan import images_of_epoch, plan_shards, slots_of_rank
from tests.pipeline.stream.manifests import (
    batches,
    datasets,
    manifest_of,
    manifest_with_keypoints,
    seeds,
)


@given(datasets, batches, seeds, st.integers(0, 3))
@settings(deadline=None)
def test_an_epoch_repeats_no_image_and_leaves_out_less_than_a_batch(data, batch, seed, epoch):
    plan = plan_shards(data, batch, seed)
    images = images_of_epoch(plan, epoch)
    assert images.shape == (plan.steps_per_epoch, batch)
    shown = Counter(images.ravel().tolist())
    if data.rows < batch:
        assert set(shown) == set(range(data.rows))
    else:
        assert max(shown.values()) == 1
        assert data.rows - len(shown) < batch


@given(datasets, batches, seeds)
@settings(deadline=None)
def test_few_batches_of_an_epoch_mix_aspect_ratios_and_only_neighboring_ones(data, batch, seed):
    plan = plan_shards(data, batch, seed)
    bins = plan.bins[images_of_epoch(plan, 0)]
    mixed = [row for row in bins if len(set(row.tolist())) > 1]
    if data.rows < batch:
        return
    # The leftovers, less than a batch of each bin, in order of aspect ratio: each border between
    # two bins is inside at most one batch.
    for border in range(BIN_COUNT - 1):
        assert sum((row <= border).any() and (row > border).any() for row in mixed) <= 1


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1))
def test_bins_order_images_by_aspect_ratio(sizes):
    bins = aspect_bins(sizes)
    aspects = np.array([width / height for height, width in sizes])
    assert (np.diff(bins[np.argsort(aspects, kind="stable")]) >= 0).all()
    portrait = np.array([height > width for height, width in sizes])
    assert (portrait == (bins < 2)).all()


def test_the_common_formats_have_bins_of_their_own():
    formats = [(640, 427), (640, 480), (640, 640), (480, 640), (427, 640), (360, 640)]
    assert aspect_bins(formats).tolist() == [0, 1, 2, 2, 3, 4]


def test_images_left_out_are_of_any_aspect_ratio():
    """Mixed batches are ordered by aspect ratio, but the leftovers of an epoch are not its last."""
    plan = plan_shards(manifest_of([[[0] * 3, [1] * 3]]), 4, 0)
    left_out = [set(range(6)) - set(images_of_epoch(plan, e).ravel().tolist()) for e in range(16)]
    assert set.union(*left_out) == set(range(6))


@given(
    st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=9).map(tuple), min_size=1),
    st.integers(0, 20),
    st.integers(1, 5),
)
def test_an_epoch_has_only_images_with_enough_keypoints(shards, min_keypoints, batch):
    manifest = manifest_with_keypoints(*shards)
    counts = np.concatenate(shards)
    enough = int((counts >= min_keypoints).sum())
    if not enough:
        with pytest.raises(ValueError, match="no image has"):
            plan_shards(manifest, batch, 0, min_keypoints)
        return
    plan = plan_shards(manifest, batch, 0, min_keypoints)
    images = images_of_epoch(plan, 1)
    assert plan.image_count == enough
    assert images.shape == (plan.steps_per_epoch, batch)
    assert (counts[images] >= min_keypoints).all()
    assert enough - len(np.unique(images)) < batch
    if min_keypoints == 0:
        assert np.array_equal(images, images_of_epoch(plan_shards(manifest, batch, 0), 1))


def test_epochs_and_seeds_differ_and_are_reproducible():
    data = manifest_of([[[0] * 8] * 8])
    plan, same, other = plan_shards(data, 4, 0), plan_shards(data, 4, 0), plan_shards(data, 4, 1)
    assert np.array_equal(images_of_epoch(plan, 2), images_of_epoch(same, 2))
    assert not np.array_equal(images_of_epoch(plan, 2), images_of_epoch(plan, 3))
    assert not np.array_equal(images_of_epoch(plan, 2), images_of_epoch(other, 2))


def test_images_left_out_of_one_epoch_appear_in_others():
    plan = plan_shards(manifest_of([[[0] * 7]]), 4, 0)
    left_out = [set(range(7)) - set(images_of_epoch(plan, e).ravel().tolist()) for e in range(8)]
    assert not set.intersection(*left_out)


@pytest.mark.parametrize("world_size", range(1, 9))
def test_workers_share_all_slots_as_evenly_as_possible(world_size):
    plan = plan_shards(manifest_of([[[0] * 9]]), 8, 0)
    shares = [slots_of_rank(plan, rank, world_size) for rank in range(world_size)]
    assert [slot for share in shares for slot in share] == list(range(8))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_workers_than_images_per_step_are_refused():
    plan = plan_shards(manifest_of([[[0] * 7]]), 4, 0)
    with pytest.raises(ValueError, match="5 workers cannot share 4 images"):
        slots_of_rank(plan, 0, 5)


def test_shards_without_images_are_refused():
    with pytest.raises(ValueError, match="no image"):
        plan_shards(manifest_of([]), 4, 0)
