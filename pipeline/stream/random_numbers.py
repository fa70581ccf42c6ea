"""Random numbers that are a function of what they are for, not of what was drawn before.

A generator has to draw for every image in turn. Hashing (seed, step, slot) instead gives the
numbers of any images, all at once: a worker draws only for its own images, and any number of
workers draws the same.

Shapes: N slots, D random numbers of each.
Source: Steele, Lea and Flood 2014 (SplitMix64); Salmon et al. 2011 on counter-based generators.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

_INCREMENT = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
_FACTORS = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)
_SHIFTS = np.array([30, 27, 31], dtype=np.uint64)


class Purpose(IntEnum):
    """What random numbers are for; those of two purposes are independent."""

    AUGMENTATION = 0
    SAMPLING = 1
    PASTE = 2
    NETWORK = 3


def random_bits(
    seed: int, step: ArrayLike, slots: ArrayLike, purpose: Purpose, draws: int
) -> NDArray[np.uint64]:
    """Return (N, D) random integers in [0, 2^64).

    Args:
        seed: seed of the run.
        step: the optimizer step; or (N,), that of each slot.
        slots: (N,) slots of the global batch; or one slot for all steps.
        purpose: what the numbers are for.
        draws: D.
    """
    state = np.zeros(1, dtype=np.uint64)
    for part in (seed % 2**64, int(purpose), step):
        state = _mix(state ^ np.asarray(part, dtype=np.uint64))
    state = _mix(state ^ np.asarray(slots, dtype=np.uint64))
    return _mix(state[:, None] + np.arange(draws, dtype=np.uint64) * np.uint64(_INCREMENT))


def random_fractions(
    seed: int, step: ArrayLike, slots: ArrayLike, purpose: Purpose, draws: int
) -> NDArray[np.float64]:
    """Return (N, D) random numbers in [0, 1); arguments as of `random_bits`."""
    bits = random_bits(seed, step, slots, purpose, draws)
    # The upper 53 bits: a float64 holds no more.
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash integers invertibly. Only arrays: they overflow without a warning."""
    x = x + np.uint64(_INCREMENT)
    x = (x ^ (x >> _SHIFTS[0])) * _FACTORS[0]
    x = (x ^ (x >> _SHIFTS[1])) * _FACTORS[1]
    x ^= x >> _SHIFTS[2]
    return x
