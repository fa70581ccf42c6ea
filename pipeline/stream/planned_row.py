"""A row read from a shard, with the step and the slot it is planned for."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.shards.row import ShardRow, rows_from_arrow


@dataclass(frozen=True)
class PlannedRow:
    """The row for one slot of the global batch of one step.

    Args:
        step: the optimizer step.
        slot: index in the global batch.
        row: the row; None if it could not be read.
        problem: why it could not be read; None if it could.
    """

    step: int
    slot: int
    row: ShardRow | None
    problem: str | None


def planned_rows(table: pa.Table) -> Iterator[PlannedRow]:
    """Yield the rows of a table with ``shard_reader.PLANNED_SCHEMA``; each has its own memory."""
    columns = (table.column(name).to_pylist() for name in ("step", "slot", "problem"))
    for index, (step, slot, problem) in enumerate(zip(*columns, strict=True)):
        row = None if problem is not None else rows_from_arrow(table.slice(index, 1))[0]
        yield PlannedRow(step, slot, row, problem)
