"""A row as it arrives from the reader, with the slot of the run that it is for."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline.shards.row import ShardRow, rows_from_arrow


@dataclass(frozen=True)
class ArrivedRow:
    """``row`` is for ``place`` of the global batch of ``step``.

    Where it could not be read, it is None and ``problem`` says why.
    """

    step: int
    place: int
    row: ShardRow | None
    problem: str | None


def arrived_rows(table: pa.Table) -> Iterator[ArrivedRow]:
    """The rows of a table of the reader's schema; they own their memory."""
    slots = (table.column(name).to_pylist() for name in ("step", "place", "problem"))
    for index, (step, place, problem) in enumerate(zip(*slots, strict=True)):
        row = None if problem is not None else rows_from_arrow(table.slice(index, 1))[0]
        yield ArrivedRow(step, place, row, problem)
