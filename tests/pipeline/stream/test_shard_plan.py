"""Laws of the shard plan, for any data set, batch and number of workers."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.structures import ImageSize
from pipeline.shards.manifest import Manifest, ShardFile
from pipeline.stream.shard_plan import (
    images_of_epoch,
    images_of_step,
    places_of_rank,
    plan_reads,
    plan_shards,
)


def manifest_of(shards):
    """Shards given as lists of row groups, a row group as a list of "is upright"."""
    files = []
    for number, groups in enumerate(shards):
        uprights = [upright for group in groups for upright in group]
        sizes = tuple(ImageSize(20, 10) if upright else ImageSize(10, 20) for upright in uprights)
        lengths = tuple(map(len, groups))
        files.append(ShardFile(f"s{number}", len(sizes), "", lengths, sizes))
    return Manifest(1, (), tuple(files), "", {}, {})


data_sets = st.lists(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=4),
    min_size=1,
    max_size=5,
).map(manifest_of)
batches = st.integers(1, 8)
seeds = st.integers(0, 2**32)


@given(data_sets, batches, seeds, st.integers(0, 3))
def test_an_epoch_shows_no_image_twice_and_leaves_out_less_than_a_batch(data, batch, seed, epoch):
    plan = plan_shards(data, batch, seed)
    images = images_of_epoch(plan, epoch)
    assert images.shape == (plan.steps_per_epoch, batch)
    shown = Counter(images.ravel().tolist())
    if data.rows < batch:
        assert set(shown) == set(range(data.rows))
    else:
        assert max(shown.values()) == 1
        assert data.rows - len(shown) < batch


@given(data_sets, batches, seeds)
def test_at_most_one_batch_of_an_epoch_mixes_orientations(data, batch, seed):
    plan = plan_shards(data, batch, seed)
    upright = plan.sizes[images_of_epoch(plan, 0), 0] > plan.sizes[images_of_epoch(plan, 0), 1]
    mixed = sum(row.any() and not row.all() for row in upright)
    assert mixed <= 1


@given(data_sets, st.integers(1, 3), seeds, st.sampled_from([1, 2, 4]), st.data())
def test_reads_of_all_workers_fill_every_slot_of_the_run_once(data, part, seed, world, draw):
    """Also when the run begins and ends anywhere, for any number of workers."""
    plan = plan_shards(data, 4 * part, seed)
    start = draw.draw(st.integers(0, 3 * plan.steps_per_epoch))
    run = range(start, start + draw.draw(st.integers(1, 2 * plan.steps_per_epoch + 1)))
    chunk = draw.draw(st.integers(1, 5))
    filled = {}
    for rank in range(world):
        places = places_of_rank(plan, rank, world)
        for first in range(run.start, run.stop, chunk):
            window = range(first, min(first + chunk, run.stop))
            for read in plan_reads(plan, places, run, window):
                group = next(
                    index
                    for index, file in enumerate(plan.group_file)
                    if plan.files[file] == read.file and plan.group_number[index] == read.group
                )
                assert read.slots[0][0] in window
                for row, (step, place) in zip(read.rows, read.slots, strict=True):
                    assert (step, place) not in filled
                    filled[step, place] = int(plan.group_start[group]) + row
    expected = {
        (step, place): image
        for step in run
        for place, image in enumerate(images_of_step(plan, step)[1].tolist())
    }
    assert filled == expected


@given(data_sets, batches, seeds)
def test_rows_arrive_no_later_than_their_step(data, batch, seed):
    plan = plan_shards(data, batch, seed)
    run = range(2 * plan.steps_per_epoch)
    arrived = set()
    for step in run:
        for read in plan_reads(plan, range(batch), run, range(step, step + 1)):
            arrived |= set(read.slots)
        assert {(step, place) for place in range(batch)} <= arrived


def test_large_lanes_read_each_row_group_about_once():
    data = manifest_of([[[False] * 8] * 16] * 4)
    plan = plan_shards(data, 4, 0)
    run = range(plan.steps_per_epoch)
    reads = [
        read for step in run for read in plan_reads(plan, range(4), run, range(step, step + 1))
    ]
    # 64 row groups; each of the three inner borders between lanes may cut one in two.
    assert len(reads) <= 64 + 3


def test_epochs_and_seeds_differ_and_repeat():
    data = manifest_of([[[False] * 8] * 8])
    plan, same, other = plan_shards(data, 4, 0), plan_shards(data, 4, 0), plan_shards(data, 4, 1)
    assert np.array_equal(images_of_epoch(plan, 2), images_of_epoch(same, 2))
    assert not np.array_equal(images_of_epoch(plan, 2), images_of_epoch(plan, 3))
    assert not np.array_equal(images_of_epoch(plan, 2), images_of_epoch(other, 2))


def test_images_left_out_of_one_epoch_are_shown_in_others():
    plan = plan_shards(manifest_of([[[False] * 7]]), 4, 0)
    left_out = [set(range(7)) - set(images_of_epoch(plan, e).ravel().tolist()) for e in range(8)]
    assert not set.intersection(*left_out)


def test_a_batch_that_does_not_divide_is_refused():
    plan = plan_shards(manifest_of([[[False] * 7]]), 4, 0)
    with pytest.raises(ValueError, match="4 does not divide by 3"):
        places_of_rank(plan, 0, 3)


def test_shards_without_images_are_refused():
    with pytest.raises(ValueError, match="no image"):
        plan_shards(manifest_of([]), 4, 0)
