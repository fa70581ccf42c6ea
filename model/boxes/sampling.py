"""Random choice of training samples: a fixed number, at most a given share of it positive.

The choice depends on each image's own seed and on nothing else: not on its neighbours in the batch,
the worker, the number of workers or the device. It is no draw from a generator but a hash of
(seed, purpose, candidate), in integers that every device computes alike. Nothing here waits for the
device: outputs have fixed sizes and say which of their entries are meant.

Shapes: B images, N candidates, S slots for samples of an image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.structures.transfer import integers_on
from ops_cuda import NEGATIVE, POSITIVE

ANCHORS, PROPOSALS = 0, 1
"""What is sampled: each image has one stream of random numbers for either."""

LOW_32_BITS = 2**32 - 1


class Samples(NamedTuple):
    """Slots for the samples of B images: positives, then negatives, then slots without meaning.

    Args:
        candidate: (B, S) int64, the chosen candidate; 0 where none is.
        is_positive: (B, S) bool, never beyond the first ``most_positive`` slots.
        is_negative: (B, S) bool.
        most_positive: slots of an image that may hold positives.
    """

    candidate: Tensor
    is_positive: Tensor
    is_negative: Tensor
    most_positive: int


def sample_candidates(
    verdict: Tensor, count: int, positive_fraction: float, seeds: Sequence[int], purpose: int
) -> Samples:
    """Choose up to ``count`` candidates of each image, as many negatives as it takes to fill up.

    Args:
        verdict: (B, N) int64: POSITIVE, NEGATIVE or IGNORED.
        count: samples per image; there are S = min(count, N) slots.
        positive_fraction: largest share of positives.
        seeds: one per image.
        purpose: ANCHORS or PROPOSALS.

    Source: Ren et al. 2015, section 3.1.3.
    """
    slots = min(count, verdict.shape[1])
    most_positive = min(int(count * positive_fraction), slots)
    priority = _priorities(verdict.shape[1], _keys(seeds, purpose, verdict.device))
    positive, exists = _first(verdict == POSITIVE, priority, most_positive)
    negative, remains = _first(verdict == NEGATIVE, priority, slots)
    positives = exists.sum(dim=1, keepdim=True)
    slot = torch.arange(slots, device=verdict.device).expand(len(verdict), -1)
    is_positive = slot < positives
    nth_negative = (slot - positives).clamp(min=0)
    is_negative = remains.gather(1, nth_negative) & ~is_positive
    index = torch.where(is_negative, negative.gather(1, nth_negative), 0)
    # Without room for positives there is no row of them to read.
    index[:, :most_positive] += torch.where(exists, positive, 0)
    return Samples(index, is_positive, is_negative, most_positive)


def _first(wanted: Tensor, priority: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Indices (B, limit) of the wanted candidates of highest priority, and whether there are any.

    No two priorities are equal, so that no device has a tie to decide.
    """
    best, index = torch.where(wanted, priority, -1).topk(limit, dim=1)
    return index, best >= 0


def _priorities(count: int, keys: Tensor) -> Tensor:
    """A random permutation per image: (B, N) int64 in [0, 2^32), all different within an image.

    An invertible hash of the numbers 0..N-1 in the order of the image's key.
    """
    return _mix(torch.arange(count, device=keys.device) ^ keys[:, None])


def _mix(x: Tensor) -> Tensor:
    """An invertible hash of integers in [0, 2^32), held in int64; changes ``x``.

    Source: Wellons, "Prospecting for hash functions", 2018 (lowbias32). The second factor is
    0x846ca68b less 2^32: the same low bits, and no product leaves int64.
    """
    x ^= x >> 16
    x *= 0x7FEB352D
    x &= LOW_32_BITS
    x ^= x >> 15
    x *= 0x846CA68B - 2**32
    x &= LOW_32_BITS
    x ^= x >> 16
    return x


def _keys(seeds: Sequence[int], purpose: int, device: torch.device) -> Tensor:
    """A key of 32 bits per image, (B,) int64."""
    hashed = [_mix_64_bits((2 * seed + purpose) % 2**64) for seed in seeds]
    return integers_on(device, [key >> 32 for key in hashed])


def _mix_64_bits(x: int) -> int:
    """Source: Steele, Lea and Flood 2014 (SplitMix), with the increment of its generator."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)
