"""Read row groups in planned order: in one Ray Data execution per run, or in this process.

Neither this module nor its imports load torch, so that the reading tasks start quickly.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext, ExecutionOptions, ExecutionResources, TaskPoolStrategy

from pipeline.shards.shard_file import SCHEMA, read_row_group
from pipeline.stream.read_plan import Read, ReadPlan, plan_reads

_STEPS_PER_WINDOW = 16  # reads are planned for this many steps at once
_WINDOWS_PER_TASK = 8
_READS_AHEAD = 4
_BLOCK_BYTES = 8 << 20
_STORE_SHARE = 0.3  # of the object store, for the streams of all workers together
_MIN_STORE_BYTES = 64 << 20

PLANNED_SCHEMA = pa.schema(
    [*SCHEMA, ("step", pa.int64()), ("slot", pa.int64()), ("problem", pa.string())]
)
"""Columns of a planned row; ``problem`` says why a row is unreadable and its columns are null."""


def read_locally(plan: ReadPlan) -> Generator[pa.Table]:
    """Read a plan's rows in the order they are needed, in this process.

    Yields:
        Tables with `PLANNED_SCHEMA`.
    """
    yield from _read_ahead(plan, plan.steps[::_STEPS_PER_WINDOW])


def read_with_ray(plan: ReadPlan, world_size: int) -> Generator[pa.Table]:
    """Read a plan's rows in the order they are needed, ahead of time in Ray tasks.

    One execution serves the whole run: starting one takes seconds, and this way epochs follow each
    other without a pause. Its tasks run one after another, each reading with a few threads. They
    request no CPUs, so they run even when the training workers have reserved all of them; reading
    mostly waits for storage. Closing the generator ends the execution.

    Args:
        plan: what to read.
        world_size: number of workers with such a stream; they share the object store.

    Yields:
        Tables with `PLANNED_SCHEMA`.
    """
    windows = [{"first": first} for first in plan.steps[::_STEPS_PER_WINDOW]]
    if not windows:
        return
    with DataContext.current(_data_context(world_size)):
        dataset = ray.data.from_items(
            windows, override_num_blocks=-(-len(windows) // _WINDOWS_PER_TASK)
        ).map_batches(
            _read_windows,
            fn_kwargs={"plan": plan},
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,
            compute=TaskPoolStrategy(1),
        )
    blocks = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2))
    try:
        yield from blocks
    finally:
        blocks.close()


def _data_context(world_size: int) -> DataContext:
    context = DataContext.get_current().copy()
    total = ray.cluster_resources().get("object_store_memory", 0.0)
    share = max(_MIN_STORE_BYTES, _STORE_SHARE * total / world_size)
    context.execution_options = ExecutionOptions(
        preserve_order=True,
        resource_limits=ExecutionResources.for_limits(object_store_memory=share),
    )
    context.target_max_block_size = _BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def _read_windows(windows: pa.Table, plan: ReadPlan) -> Iterator[pa.Table]:
    return _read_ahead(plan, windows.column("first").to_pylist())


def _read_ahead(plan: ReadPlan, first_steps: Iterable[int]) -> Iterator[pa.Table]:
    """Yield the reads of windows of steps in order, with a few reads in flight."""
    reads = (read for first in first_steps for read in _reads_of_window(plan, first))
    in_flight: deque[Future[pa.Table]] = deque()
    with ThreadPoolExecutor(_READS_AHEAD) as readers:
        for read in reads:
            in_flight.append(readers.submit(_read_table, plan.shards_url, read))
            if len(in_flight) >= _READS_AHEAD:
                yield in_flight.popleft().result()
        while in_flight:
            yield in_flight.popleft().result()


def _reads_of_window(plan: ReadPlan, first: int) -> list[Read]:
    return plan_reads(plan, range(first, min(first + _STEPS_PER_WINDOW, plan.steps.stop)))


def _read_table(shards_url: str, read: Read) -> pa.Table:
    """Read rows with their steps and slots; unreadable rows are null and have a ``problem``."""
    steps, slots = zip(*read.destinations, strict=True)
    problem: str | None = None
    try:
        table = read_row_group(shards_url, read.file, read.group).select(SCHEMA.names)
        table = table.take(pa.array(read.rows))
    except (OSError, pa.ArrowException, KeyError) as error:
        problem = f"{read.file}, row group {read.group}: {error}"
        table = _empty_rows(len(read.rows))
    extra: dict[str, Any] = {
        "step": pa.array(steps, pa.int64()),
        "slot": pa.array(slots, pa.int64()),
        "problem": pa.array([problem] * len(read.rows), pa.string()),
    }
    for name, column in extra.items():
        table = table.append_column(name, column)
    return table.cast(PLANNED_SCHEMA)


def _empty_rows(count: int) -> pa.Table:
    return pa.table({field.name: pa.nulls(count, field.type) for field in SCHEMA}, SCHEMA)
