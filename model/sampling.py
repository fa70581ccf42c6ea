"""Random choice of training samples: a fixed number, at most a given share of it positive.

The choice depends on each image's own seed only, never on its neighbours in the batch, the worker
or the number of workers. Nothing here waits for the device: outputs have fixed sizes and say which
of their entries are meant.

Shapes: B images, N candidates, P and Q at most so many positive and negative samples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.matching import IGNORED, NEGATIVE, POSITIVE

ANCHORS, PROPOSALS = 0, 1
"""What is sampled: each image has one stream of random numbers for either."""


class Samples(NamedTuple):
    """Indices of the chosen candidates of B images; where the mask is False, of nothing.

    Args:
        positive: (B, P) int64.
        is_positive: (B, P) bool.
        negative: (B, Q) int64.
        is_negative: (B, Q) bool.
    """

    positive: Tensor
    is_positive: Tensor
    negative: Tensor
    is_negative: Tensor


def sample_candidates(
    verdicts: Sequence[Tensor],
    count: int,
    positive_fraction: float,
    seeds: Sequence[int],
    purpose: int,
) -> Samples:
    """Choose up to ``count`` candidates of each image, as many negatives as it takes to fill up.

    Args:
        verdicts: per image (N_b,) int64: POSITIVE, NEGATIVE or IGNORED.
        count: samples per image.
        positive_fraction: largest share of positives.
        seeds: one per image.
        purpose: ANCHORS or PROPOSALS.

    Source: Ren et al. 2015, section 3.1.3.
    """
    priorities = [
        _priorities(len(verdict), seed, purpose, verdict.device)
        for verdict, seed in zip(verdicts, seeds, strict=True)
    ]
    verdict = pad_sequence(list(verdicts), batch_first=True, padding_value=IGNORED)
    priority = pad_sequence(priorities, batch_first=True)
    positive, is_positive = _first(
        verdict == POSITIVE, priority, limit=int(count * positive_fraction)
    )
    negative, is_negative = _first(verdict == NEGATIVE, priority, limit=count)
    room = count - is_positive.sum(dim=1, keepdim=True)
    rank = torch.arange(negative.shape[1], device=negative.device)
    return Samples(positive, is_positive, negative, is_negative & (rank < room))


def _priorities(count: int, seed: int, purpose: int, device: torch.device) -> Tensor:
    generator = torch.Generator(device).manual_seed((2 * seed + purpose) % 2**63)
    return torch.rand(count, generator=generator, device=device)


def _first(wanted: Tensor, priority: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    keys = torch.where(wanted, priority, -1.0)
    best, indices = keys.topk(min(limit, keys.shape[1]), dim=1)
    return indices, best >= 0
