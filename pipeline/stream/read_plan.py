"""Plan which row groups one worker reads, for which slots, and in which order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.stream.shard_plan import ShardPlan, batches_of_epoch


@dataclass(frozen=True)
class ReadPlan:
    """What one worker reads in one run.

    Args:
        shards_url: folder of the shards.
        shard_plan: plan of the whole dataset.
        slots: the worker's slots of the global batch.
        steps: all steps of the run; rows of other steps are not read.
    """

    shards_url: str
    shard_plan: ShardPlan
    slots: range
    steps: range


class Read(NamedTuple):
    """Rows of one row group, in the order they are needed.

    Args:
        file: name of the shard.
        group: number of the row group in the shard.
        rows: row numbers within the group.
        destinations: (step, slot) that each row is for.
    """

    file: str
    group: int
    rows: tuple[int, ...]
    destinations: tuple[tuple[int, int], ...]


def plan_reads(plan: ReadPlan, window: range) -> list[Read]:
    """Return the reads that start in a window of steps, in the order they are needed.

    A read starts at the step that needs its first row. It also brings the rows that its lanes need
    later, until they move on to the next row group. A row group that several lanes start in the
    same call is read once.

    Args:
        plan: what the worker reads.
        window: part of ``plan.steps``.
    """
    return [
        read
        for part in _split_by_epoch(plan.shard_plan, window)
        for read in _reads_of_epoch(plan, part)
    ]


def _split_by_epoch(plan: ShardPlan, steps: range) -> Iterator[range]:
    first = steps.start
    while first < steps.stop:
        epoch_end = (first // plan.steps_per_epoch + 1) * plan.steps_per_epoch
        end = min(steps.stop, epoch_end)
        yield range(first, end)
        first = end


def _reads_of_epoch(plan: ReadPlan, window: range) -> list[Read]:
    """Return the reads that start in a window of steps of one epoch."""
    shards = plan.shard_plan
    epoch = window.start // shards.steps_per_epoch
    epoch_start = epoch * shards.steps_per_epoch
    images, kinds = batches_of_epoch(shards, epoch)
    needs: dict[int, list[tuple[int, int, int]]] = {}  # row group -> (step, slot, row)
    for kind in np.unique(kinds).tolist():
        steps = epoch_start + np.flatnonzero(kinds == kind)
        steps = steps[(steps >= plan.steps.start) & (steps < plan.steps.stop)]
        for slot in plan.slots:
            lane = images[steps - epoch_start, slot]
            groups = np.searchsorted(shards.group_start, lane, side="right") - 1
            bounds = np.flatnonzero(np.diff(groups, prepend=-1, append=-1))
            for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                # int: a range searches linearly for a numpy integer.
                if int(steps[begin]) in window:
                    group = int(groups[begin])
                    rows = (lane[begin:end] - shards.group_start[group]).tolist()
                    needs.setdefault(group, []).extend(
                        (step, slot, row)
                        for step, row in zip(steps[begin:end].tolist(), rows, strict=True)
                    )
    in_order = sorted((sorted(entries), group) for group, entries in needs.items())
    return [
        Read(
            shards.files[shards.group_file[group]],
            int(shards.group_number[group]),
            tuple(row for _, _, row in entries),
            tuple((step, slot) for step, slot, _ in entries),
        )
        for entries, group in in_order
    ]
