"""Plan which row groups one worker reads, for which slots, and in which order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.stream.paste_plan import is_pasted_on, paste_sources
from pipeline.stream.shard_plan import Integers, ShardPlan, batches_of_epoch


@dataclass(frozen=True)
class ReadPlan:
    """What one worker reads in one run.

    Args:
        shards_url: folder of the shards.
        shard_plan: plan of the whole dataset.
        slots: the worker's slots of the global batch.
        steps: all steps of the run; rows of other steps are not read.
        paste_probability: ``data.copy_paste_probability``.
    """

    shards_url: str
    shard_plan: ShardPlan
    slots: range
    steps: range
    paste_probability: float = 0.0


class Read(NamedTuple):
    """Rows of one row group, in the order they are needed.

    Args:
        file: name of the shard.
        group: number of the row group in the shard.
        rows: row numbers within the group.
        destinations: (step, slot) that each row is for; see ``paste_plan`` for slots from B on.
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
    _, kinds = batches_of_epoch(shards, epoch)
    needs: dict[int, list[tuple[int, int, int]]] = {}  # row group -> (step, slot, row)
    for kind in np.unique(kinds).tolist():
        steps_of_epoch = np.flatnonzero(kinds == kind)
        for slot in plan.slots:
            steps, slots, images = _needs_of_lane(plan, epoch, steps_of_epoch, slot)
            groups = np.searchsorted(shards.group_start, images, side="right") - 1
            bounds = np.flatnonzero(np.diff(groups, prepend=-1, append=-1))
            for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                # int: a range searches linearly for a numpy integer.
                if int(steps[begin]) in window:
                    group = int(groups[begin])
                    rows = images[begin:end] - shards.group_start[group]
                    columns = (steps[begin:end], slots[begin:end], rows)
                    needs.setdefault(group, []).extend(
                        zip(*(column.tolist() for column in columns), strict=True)
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


def _needs_of_lane(
    plan: ReadPlan, epoch: int, steps_of_epoch: Integers, slot: int
) -> tuple[Integers, Integers, Integers]:
    """Return step, slot and image of every row that a lane needs in the run, in order of need.

    An image is needed first by the step before its own, for its objects to be pasted, so the rows
    of a row group stay together.
    """
    shards = plan.shard_plan
    images, _ = batches_of_epoch(shards, epoch)
    steps = steps_of_epoch + epoch * shards.steps_per_epoch
    slots, lane = np.full(len(steps), slot), images[steps_of_epoch, slot]
    if plan.paste_probability:
        pasted = np.flatnonzero(is_pasted_on(shards, steps, slot, plan.paste_probability))
        sources = paste_sources(shards, epoch)[steps_of_epoch[pasted], slot]
        order = np.argsort(np.concatenate([2 * np.arange(len(steps)), 2 * pasted + 1]))
        slots = np.concatenate([slots, np.full(len(pasted), shards.global_batch + slot)])[order]
        steps, lane = np.concatenate([steps, steps[pasted]]), np.concatenate([lane, sources])
        steps, lane = steps[order], lane[order]
    kept = (steps >= plan.steps.start) & (steps < plan.steps.stop)
    return steps[kept], slots[kept], lane[kept]
