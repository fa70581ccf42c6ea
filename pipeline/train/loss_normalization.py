"""Losses divided by what all workers counted, so that a run does not depend on their number.

Shapes: T loss terms.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from model.structures import LossTerm


@dataclass(frozen=True)
class NormalizedLosses:
    """The losses of one micro-batch of all workers.

    Args:
        loss: scalar with a graph, this worker's share; its gradients, averaged over the workers
            as DistributedDataParallel does, are those of ``values.sum()``.
        names: the T terms, in the order of ``values``.
        values: (T,) without a graph: each term over all workers, equal on every worker.
        finite: scalar bool, whether this worker's own terms are finite.
    """

    loss: Tensor
    names: tuple[str, ...]
    values: Tensor
    finite: Tensor


def worker_count() -> int:
    """Workers of this run; 1 where no process group stands."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def normalize_losses(terms: Mapping[str, LossTerm]) -> NormalizedLosses:
    """Divide each term's sum by its count over all workers (1 where nothing was counted).

    One collective of 2 T numbers, without waiting for the device. Every worker must call it with
    the same terms.
    """
    names = tuple(sorted(terms))
    totals = torch.stack([terms[name].total.float() for name in names])
    counts = torch.stack([terms[name].count.to(totals) for name in names])
    local = torch.stack([totals.detach(), counts])
    workers = worker_count()
    everywhere = local.clone()
    if workers > 1:
        dist.all_reduce(everywhere)
    divisors = everywhere[1].clamp(min=1.0)
    return NormalizedLosses(
        # x workers: the gradients are averaged over the workers afterwards, not summed.
        loss=(totals / divisors).sum() * workers,
        names=names,
        values=everywhere[0] / divisors,
        finite=local[0].isfinite().all(),
    )
