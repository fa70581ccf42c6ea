"""Which images get objects of which other image, and which objects, for any dataset."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stream.paste_plan import (
    choose_objects,
    filled_paste_slots,
    images_by_slot,
    paste_sources,
)
from pipeline.stream.shard_plan import batches_of_epoch, plan_shards
from tests.pipeline.stream.manifests import batches, datasets, manifest_of, seeds


@given(datasets, batches, seeds, st.integers(0, 3))
@settings(deadline=None)
def test_every_image_of_an_epoch_is_pasted_from_once_and_its_batch_is_of_its_kind(
    data, batch, seed, epoch
):
    plan = plan_shards(data, batch, seed)
    (images, kinds), sources = batches_of_epoch(plan, epoch), paste_sources(plan, epoch)
    for kind in set(kinds.tolist()):
        lanes, sources_of_lanes = images[kinds == kind], sources[kinds == kind]
        for lane, sources_of_lane in zip(lanes.T, sources_of_lanes.T, strict=True):
            if len(lane) > 1:
                assert sources_of_lane.tolist() == [*lane[1:].tolist(), int(lane[0])]
        assert sorted(sources_of_lanes.ravel().tolist()) == sorted(lanes.ravel().tolist())


@given(datasets, st.integers(2, 8), seeds)
@settings(deadline=None)
def test_an_image_is_pasted_on_itself_only_if_the_epoch_repeats_it(data, batch, seed):
    plan = plan_shards(data, batch, seed)
    images = batches_of_epoch(plan, 0)[0]
    if len(np.unique(images)) == images.size:
        assert (paste_sources(plan, 0) != images).all()


@given(seeds, st.integers(0, 2**20), st.sampled_from([0.2, 0.5, 1.0]))
@settings(deadline=None, max_examples=30)
def test_a_paste_depends_on_its_slot_alone_and_is_as_frequent_as_asked(seed, step, probability):
    plan = plan_shards(manifest_of([[[0] * 8] * 200]), 400, seed)
    whole = filled_paste_slots(plan, step, range(400), probability)
    parts = [
        filled_paste_slots(plan, step, range(n, n + 100), probability) for n in (0, 100, 200, 300)
    ]
    assert whole == [slot for part in parts for slot in part]
    assert set(whole) <= set(range(400, 800))
    # Six standard deviations.
    assert abs(len(whole) - 400 * probability) <= 6 * (400 * probability * (1 - probability)) ** 0.5
    assert filled_paste_slots(plan, step, range(400), 0.0) == []
    images = images_by_slot(plan, step)
    assert len(images) == 800 and set(images.tolist()) <= set(range(1600))


def test_any_number_of_objects_is_chosen_and_any_objects():
    plan = plan_shards(manifest_of([[[0] * 8]]), 4, 0)
    chosen = [choose_objects(plan, step, slot, 3) for step in range(1000) for slot in range(4)]
    assert all(each == sorted(set(each)) and set(each) <= {0, 1, 2} for each in chosen)
    numbers = Counter(map(len, chosen))
    # Six standard deviations of 1000 of 4000.
    assert all(abs(numbers[count] - 1000) < 6 * (4000 * 0.25 * 0.75) ** 0.5 for count in range(4))
    pairs = Counter(tuple(each) for each in chosen if len(each) == 2)
    assert len(pairs) == 3 and min(pairs.values()) > 250
    assert choose_objects(plan, 5, 1, 0) == []
