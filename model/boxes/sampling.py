"""Sample a fixed number of anchors or ROIs per image, with a limited share of positives.

The sample depends on the image's own seed and on nothing else: not on the other images of the
batch, the worker, the number of workers or the device. It is not drawn from a generator but ordered
by a hash of (seed, purpose, candidate), in integer arithmetic that every device computes alike.
Outputs have fixed sizes, so nothing here syncs with the device.

Shapes as in ``model.structures``; N candidates per image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from model.structures.transfer import tensor_on
from ops_cuda import NEGATIVE, POSITIVE

ANCHORS, PROPOSALS = 0, 1
"""Purpose of a sample: an image has an independent random order for each."""

LOW_32_BITS = 2**32 - 1


class Samples(NamedTuple):
    """S sampled candidates per image: positives, then negatives, then padding.

    Args:
        indices: (B, S) int64, the sampled candidate; 0 in padding.
        is_positive: (B, S) bool; False beyond the first ``max_positives`` slots.
        is_negative: (B, S) bool.
        max_positives: number of leading slots that may hold positives.
    """

    indices: Tensor
    is_positive: Tensor
    is_negative: Tensor
    max_positives: int

    @property
    def valid(self) -> Tensor:
        """(B, S) bool: False in padding."""
        return self.is_positive | self.is_negative


def sample_candidates(
    match_labels: Tensor,
    count: int,
    positive_fraction: float,
    seeds: Sequence[int],
    purpose: int,
) -> Samples:
    """Sample up to ``count`` candidates per image, filling up with negatives.

    Args:
        match_labels: (B, N) int64: POSITIVE, NEGATIVE or IGNORED.
        count: samples per image; S = min(count, N).
        positive_fraction: largest share of positives.
        seeds: one per image.
        purpose: ANCHORS or PROPOSALS.

    Source: Ren et al. 2015, section 3.1.3.
    """
    slots = min(count, match_labels.shape[1])
    max_positives = min(int(count * positive_fraction), slots)
    priority = _priorities(match_labels.shape[1], _keys(seeds, purpose, match_labels.device))
    positives, positive_exists = _top(match_labels == POSITIVE, priority, max_positives)
    negatives, negative_exists = _top(match_labels == NEGATIVE, priority, slots)
    num_positives = positive_exists.sum(dim=1, keepdim=True)
    slot = torch.arange(slots, device=match_labels.device).expand(len(match_labels), -1)
    is_positive = slot < num_positives
    nth_negative = (slot - num_positives).clamp(min=0)
    is_negative = negative_exists.gather(1, nth_negative) & ~is_positive
    indices = torch.where(is_negative, negatives.gather(1, nth_negative), 0)
    # max_positives may be 0, and then there is nothing to gather from.
    indices[:, :max_positives] += torch.where(positive_exists, positives, 0)
    return Samples(indices, is_positive, is_negative, max_positives)


def _top(eligible: Tensor, priority: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the eligible candidates of highest priority, (B, count), and which of them exist.

    Priorities are unique, so ties cannot make devices disagree.
    """
    best, index = torch.where(eligible, priority, -1).topk(count, dim=1)
    return index, best >= 0


def _priorities(count: int, keys: Tensor) -> Tensor:
    """Return a random priority per candidate, (B, N) int64 in [0, 2^32), unique within an image.

    The index of the candidate XOR the key of the image, in an invertible hash.
    """
    return _mix(torch.arange(count, device=keys.device) ^ keys[:, None])


def _mix(x: Tensor) -> Tensor:
    """Hash integers in [0, 2^32), held in int64, invertibly and in place.

    Source: Wellons, "Prospecting for hash functions", 2018 (lowbias32). The second factor is
    0x846ca68b - 2^32: the low bits are the same, and no product overflows int64.
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
    """Return a 32-bit key per image, (B,) int64."""
    hashed = [_mix_64_bits((2 * seed + purpose) % 2**64) for seed in seeds]
    return tensor_on(device, [key >> 32 for key in hashed], torch.int64)


def _mix_64_bits(x: int) -> int:
    """Hash a 64-bit integer.

    Source: Steele, Lea and Flood 2014 (SplitMix), with the increment of its generator.
    """
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)
