"""Laws of planned reads, for any dataset, batch and number of workers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stream.paste_plan import filled_paste_slots, images_by_slot
from pipeline.stream.read_plan import ReadPlan, plan_reads
from pipeline.stream.shard_plan import plan_shards, slots_of_rank
from tests.pipeline.stream.manifests import (
    batches,
    datasets,
    manifest_of,
    manifest_with_classes,
    seeds,
)

repeated_datasets = st.lists(
    st.lists(st.lists(st.integers(1, 5), max_size=2), min_size=1, max_size=12),
    min_size=1,
    max_size=4,
).map(lambda shards: manifest_with_classes(*shards))
plans = st.one_of(
    st.tuples(datasets, st.just(0.0)), st.tuples(repeated_datasets, st.sampled_from([0.2, 1.0]))
)
paste_probabilities = st.sampled_from([0.0, 0.4, 1.0])


def needed(plan, step, probability):
    """Return the (slot, image) pairs that a step needs."""
    slots = range(plan.global_batch)
    images = images_by_slot(plan, step).tolist()
    pasted = filled_paste_slots(plan, step, slots, probability)
    return [(slot, images[slot]) for slot in (*slots, *pasted)]


@given(plans, st.integers(1, 3), seeds, st.sampled_from([1, 2, 4]), paste_probabilities, st.data())
@settings(deadline=None)
def test_reads_of_all_workers_fill_every_slot_of_the_run_once(
    data, share, seed, world, probability, draw
):
    """For any number of workers and steps of the run, with and without repeats and pastes."""
    manifest, threshold = data
    plan = plan_shards(manifest, 4 * share, seed, repeat_threshold=threshold)
    start = draw.draw(st.integers(0, 3 * plan.steps_per_epoch))
    steps = range(start, start + draw.draw(st.integers(1, 2 * plan.steps_per_epoch + 1)))
    length = draw.draw(st.integers(1, 5))
    filled = {}
    for rank in range(world):
        slots = slots_of_rank(plan, rank, world)
        read_plan = ReadPlan("shards", plan, slots, steps, probability)
        for first in range(steps.start, steps.stop, length):
            window = range(first, min(first + length, steps.stop))
            for read in plan_reads(read_plan, window):
                group = next(
                    index
                    for index, file in enumerate(plan.group_file)
                    if plan.files[file] == read.file and plan.group_number[index] == read.group
                )
                assert read.destinations[0][0] in window
                for row, (step, slot) in zip(read.rows, read.destinations, strict=True):
                    assert (step, slot) not in filled
                    filled[step, slot] = int(plan.group_start[group]) + row
    expected = {
        (step, slot): image for step in steps for slot, image in needed(plan, step, probability)
    }
    assert filled == expected


@given(datasets, batches, seeds, paste_probabilities)
@settings(deadline=None)
def test_rows_are_read_no_later_than_their_step(data, batch, seed, probability):
    plan = plan_shards(data, batch, seed)
    steps = range(2 * plan.steps_per_epoch)
    read_plan = ReadPlan("shards", plan, range(batch), steps, probability)
    filled = set()
    for step in steps:
        for read in plan_reads(read_plan, range(step, step + 1)):
            filled |= set(read.destinations)
        assert {(step, slot) for slot, _ in needed(plan, step, probability)} <= filled


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_long_lanes_read_each_row_group_about_once(probability):
    data = manifest_of([[[0] * 8] * 16] * 4)
    plan = plan_shards(data, 4, 0)
    steps = range(plan.steps_per_epoch)
    read_plan = ReadPlan("shards", plan, range(4), steps, probability)
    reads = [read for step in steps for read in plan_reads(read_plan, range(step, step + 1))]
    # 64 row groups; each of the three borders between lanes may split one in two. The first image
    # of each lane is pasted on the last one.
    assert len(reads) <= 64 + 3 + 4 * probability
