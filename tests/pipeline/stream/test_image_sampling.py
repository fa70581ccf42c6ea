"""Laws of the selection and repetition of images, for any dataset."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.shards.manifest import Manifest
from pipeline.stream.image_sampling import (
    UNIT,
    repeat_factors,
    sampling_weights,
    select_images,
    systematic_counts,
)
from pipeline.stream.shard_plan import images_of_epoch, plan_shards
from tests.pipeline.stream.manifests import batches, manifest_with_classes, seeds

class_lists = st.lists(st.integers(1, 6), max_size=4)
datasets = st.lists(st.lists(class_lists, min_size=1, max_size=9), min_size=1, max_size=4)
thresholds = st.sampled_from([1e-9, 0.001, 0.05, 0.3, 1.0])


def everything(manifest):
    return select_images(manifest, 0, drop_images_without_objects=False)


def factors_by_definition(images, threshold):
    """Return max over classes of max(1, sqrt(t / f)), in plain Python."""
    share = {c: sum(c in image for image in images) / len(images) for c in range(1, 7)}
    return [max([1.0] + [math.sqrt(threshold / share[c]) for c in image]) for image in images]


@given(datasets, thresholds)
def test_factors_are_those_of_the_paper(shards, threshold):
    manifest = manifest_with_classes(*shards)
    images = [image for shard in shards for image in shard]
    factors = repeat_factors(manifest, everything(manifest), threshold)
    assert factors == pytest.approx(factors_by_definition(images, threshold), rel=1e-12)


def test_a_rare_class_among_frequent_ones_has_the_published_factor():
    # Class 2 is in one image of 100; class 1 in all.
    manifest = manifest_with_classes([[1, 2], *[[1]] * 99])
    factors = repeat_factors(manifest, everything(manifest), 0.04)
    assert factors.tolist() == pytest.approx([2.0] + [1.0] * 99)


@given(datasets)
def test_images_that_are_left_out_count_for_no_share(shards):
    images = [image for shard in shards for image in shard]
    manifest = manifest_with_classes(*shards)
    if not any(images):
        with pytest.raises(ValueError, match="no image has objects"):
            select_images(manifest, 0, drop_images_without_objects=True)
        return
    selected = select_images(manifest, 0, drop_images_without_objects=True)
    assert selected.tolist() == [bool(image) for image in images]
    kept = manifest_with_classes([image for image in images if image])
    factors = repeat_factors(manifest, selected, 0.3)
    assert factors[~selected].tolist() == [0.0] * int((~selected).sum())
    assert np.array_equal(factors[selected], repeat_factors(kept, everything(kept), 0.3))


@given(st.lists(st.floats(1.0, 20.0), min_size=1, max_size=50))
def test_weights_are_the_factors_scaled_by_less_than_one_image(factors):
    weights = sampling_weights(np.array(factors))
    if max(factors) == 1.0:
        assert weights is None
        return
    total = math.ceil(math.fsum(factors))
    assert int(weights.sum()) == total * UNIT
    expected = np.array(factors) * total / math.fsum(factors)
    # Each is rounded by half a unit, and the largest bears what the others lack.
    assert weights / UNIT == pytest.approx(expected, abs=len(factors) / UNIT)
    assert weights.min() >= UNIT


@given(st.lists(st.floats(1.0, 4.0), min_size=1, max_size=12).filter(lambda f: max(f) > 1))
def test_the_mean_over_all_offsets_is_exactly_the_weight_and_the_sum_constant(factors):
    weights = sampling_weights(np.array(factors))
    # Counts change only where offset + a cumulative sum crosses a multiple of UNIT, so that a few
    # intervals of offsets stand for all 2^32 of them.
    borders = sorted({0, UNIT, *(-np.cumsum(weights) % UNIT).tolist()})
    mean = np.zeros(len(weights), dtype=object)
    for first, end in itertools.pairwise(borders):
        counts = systematic_counts(weights, first)
        assert np.array_equal(counts, systematic_counts(weights, end - 1))
        assert counts.sum() * UNIT == weights.sum()
        assert (counts >= weights // UNIT).all()
        assert (counts <= -(-weights // UNIT)).all()
        mean += counts.astype(object) * (end - first)
    assert mean.tolist() == weights.tolist()


@given(datasets, batches, seeds, thresholds, st.booleans(), st.integers(0, 3))
@settings(deadline=None)
def test_every_epoch_has_the_same_steps_and_each_image_its_factor_rounded(
    shards, batch, seed, threshold, drop, epoch
):
    images = [image for shard in shards for image in shard]
    if drop and not any(images):
        return
    manifest = manifest_with_classes(*shards)
    plan = plan_shards(
        manifest,
        batch,
        seed,
        drop_images_without_objects=drop,
        repeat_threshold=threshold,
    )
    shown = images_of_epoch(plan, epoch)
    assert shown.shape == (plan.steps_per_epoch, batch)
    if drop:
        assert all(images[index] for index in shown.ravel())
    counts = np.bincount(shown.ravel(), minlength=len(images))
    if plan.weights is None:
        assert plan.epoch_length == plan.image_count
        return
    if plan.epoch_length >= batch:
        assert (counts <= -(-plan.weights // UNIT)).all()
        missing = np.maximum(plan.weights // UNIT - counts, 0).sum()
        assert missing <= plan.epoch_length - shown.size < batch


def test_the_mean_over_epochs_approaches_the_factor():
    # Two rare classes; a batch of one, so that nothing is left out of an epoch.
    manifest = manifest_with_classes([[1], [1, 2], *[[1]] * 18], [[1, 3], [1, 3], *[[]] * 8])
    plan = plan_shards(manifest, 1, 7, repeat_threshold=0.5)
    epochs = 400
    counts = sum(np.bincount(images_of_epoch(plan, e).ravel(), minlength=30) for e in range(epochs))
    # A count is rounded down or up, so its variance is at most 1/4: five standard errors.
    assert counts / epochs == pytest.approx(plan.weights / UNIT, abs=5 * 0.5 / epochs**0.5)
    assert plan.weights[1] / UNIT == pytest.approx(math.sqrt(0.5 * 30), rel=0.02)


def test_copies_of_an_image_are_spread_over_the_epoch():
    # 1,000 images; ten of them have a class of their own and are seen ten times each.
    shard = [[1, 2 + index // 100] if index % 100 == 0 else [1] for index in range(1000)]
    plan = plan_shards(manifest_with_classes(shard, rows_per_group=20), 1, 0, repeat_threshold=0.1)
    order = images_of_epoch(plan, 0).ravel()
    gaps = [np.diff(np.flatnonzero(order == image)) for image in range(0, 1000, 100)]
    assert {len(each) for each in gaps} == {9}
    # Ten uniform positions in 1,090 are 99 apart on average; next to each other they would be at 1.
    assert 80 < np.concatenate(gaps).mean() < 120
    assert np.median(np.concatenate(gaps)) > 30


def test_without_rare_classes_the_plan_is_that_without_repeats():
    shards = [[[1], [1, 2], [2], [1, 2], [1, 2], [1]]] * 3
    manifest = manifest_with_classes(*shards)
    plan = plan_shards(manifest, 2, 5, repeat_threshold=0.5)
    assert plan.weights is None
    plain = plan_shards(manifest, 2, 5)
    assert np.array_equal(images_of_epoch(plan, 3), images_of_epoch(plain, 3))


def test_one_image_and_a_batch_above_the_dataset():
    plan = plan_shards(manifest_with_classes([[1]]), 4, 0, repeat_threshold=1.0)
    assert images_of_epoch(plan, 0).tolist() == [[0, 0, 0, 0]]
    manifest = manifest_with_classes([[1], [1], [1], [1, 2]])
    plan = plan_shards(manifest, 16, 0, repeat_threshold=1.0)
    counts = np.bincount(images_of_epoch(plan, 0).ravel())
    assert (plan.steps_per_epoch, counts.sum()) == (1, 16)
    assert counts[3] > counts[:3].max()


def test_a_manifest_without_contents_is_refused():
    manifest = manifest_with_classes([[1]])
    [file] = manifest.files
    older = Manifest(3, (), (type(file)(file.name, 1, "", (1,), file.sizes),), "", {}, {})
    with pytest.raises(ValueError, match="call complete_manifest first"):
        plan_shards(older, 1, 0, repeat_threshold=0.1)
