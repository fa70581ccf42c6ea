"""Divide losses by the counts of all workers, so that they do not depend on their number.

Shapes: T loss terms.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from model.structures import LossTerm
from pipeline.train.distributed import worker_count


@dataclass(frozen=True)
class NormalizedLosses:
    """The losses of one micro-batch over all workers.

    Args:
        loss: scalar with a graph, this worker's share; its gradients, averaged over the workers by
            DistributedDataParallel, are those of ``values.sum()``.
        names: names of the T terms, in the order of ``values``.
        values: (T,) without a graph; each term over all workers, equal on every worker.
        finite: scalar bool, whether this worker's own terms are finite.
    """

    loss: Tensor
    names: tuple[str, ...]
    values: Tensor
    finite: Tensor


def normalize_losses(terms: Mapping[str, LossTerm]) -> NormalizedLosses:
    """Divide each term's sum by its count over all workers (by 1 if the count is 0).

    One collective of 2 T numbers, without waiting for the device. Every worker must call it with
    the same terms.
    """
    names = tuple(sorted(terms))
    totals = torch.stack([terms[name].total.float() for name in names])
    counts = torch.stack([terms[name].count.to(totals) for name in names])
    local = torch.stack([totals.detach(), counts])
    workers = worker_count()
    summed = local.clone()
    if workers > 1:
        dist.all_reduce(summed)
    divisors = summed[1].clamp(min=1.0)
    return NormalizedLosses(
        # x workers: DistributedDataParallel averages the gradients over the workers.
        loss=(totals / divisors).sum() * workers,
        names=names,
        values=summed[0] / divisors,
        finite=local[0].isfinite().all(),
    )
