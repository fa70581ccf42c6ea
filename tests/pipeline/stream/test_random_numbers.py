"""Random numbers depend on what they are for alone, and are evenly distributed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stream.random_numbers import Purpose, random_bits, random_fractions

SAMPLING, AUGMENTATION = Purpose.SAMPLING, Purpose.AUGMENTATION
seeds = st.integers(0, 2**70)
steps = st.integers(0, 2**40)


@given(seeds, steps, st.lists(st.integers(0, 2**20), min_size=1), st.integers(1, 4))
@settings(deadline=None)
def test_numbers_of_a_slot_do_not_depend_on_the_other_slots(seed, step, slots, draws):
    together = random_bits(seed, step, slots, AUGMENTATION, draws)
    assert together.shape == (len(slots), draws)
    for slot, numbers in zip(slots, together, strict=True):
        assert np.array_equal(random_bits(seed, step, [slot], AUGMENTATION, draws)[0], numbers)
        more = random_bits(seed, step, [slot], AUGMENTATION, draws + 1)[0]
        assert np.array_equal(more[:draws], numbers)


@given(seeds, st.lists(steps, min_size=1), st.integers(0, 2**20))
@settings(deadline=None)
def test_numbers_of_many_steps_are_those_of_each_step(seed, many_steps, slot):
    together = random_bits(seed, many_steps, slot, SAMPLING, 2)
    for step, numbers in zip(many_steps, together, strict=True):
        assert np.array_equal(random_bits(seed, step, [slot], SAMPLING, 2)[0], numbers)


@pytest.mark.filterwarnings("error")
def test_every_part_of_the_key_changes_the_numbers_and_nothing_else_does():
    keys = [
        (seed, step, slot, purpose)
        for seed in (0, 1, 2**64 - 1)
        for step in (0, 1, 2**40)
        for slot in (0, 1, 1023)
        for purpose in Purpose
    ]
    drawn = [
        tuple(random_bits(seed, step, [slot], purpose, 2)[0].tolist())
        for seed, step, slot, purpose in keys
    ]
    assert len({number for pair in drawn for number in pair}) == 2 * len(keys)
    # Recorded: a resumed run of another machine or version sees the same augmentations.
    assert random_bits(3, 7, [5], SAMPLING, 2).tolist() == [
        [9763592864536612309, 2782115303013645201]
    ]


def test_fractions_are_uniform_and_uncorrelated():
    steps, slots, draws = 50, 200, 4
    numbers = np.concatenate(
        [random_fractions(0, step, np.arange(slots), AUGMENTATION, draws) for step in range(steps)]
    )
    assert numbers.min() >= 0.0 and numbers.max() < 1.0
    counts = np.histogram(numbers, bins=100, range=(0, 1))[0]
    expected = numbers.size / 100
    # Chi-squared of 99 degrees: mean 99, five standard deviations are 70.
    assert ((counts - expected) ** 2 / expected).sum() < 99 + 70
    by_slot = numbers.reshape(steps, slots, draws)
    neighbors = (
        (by_slot[:, :-1], by_slot[:, 1:]),
        (by_slot[:-1], by_slot[1:]),
        (by_slot[..., :-1], by_slot[..., 1:]),
    )
    for first, second in neighbors:
        # Five standard deviations of the correlation of independent numbers.
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / first.size**0.5
