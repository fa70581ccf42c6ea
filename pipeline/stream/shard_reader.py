"""Row groups read in planned order: by one Ray Data execution for a whole run, or right here.

Without torch, like everything that the reading tasks import: they start in a moment.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import DataContext, ExecutionOptions, ExecutionResources, TaskPoolStrategy

from pipeline.shards.shard_file import SCHEMA, read_row_group
from pipeline.stream.shard_plan import Read, ShardPlan, plan_reads

_STEPS_PER_CHUNK = 16  # reads are planned for so many steps at once
_CHUNKS_PER_TASK = 8
_READS_AHEAD = 4
_BLOCK_BYTES = 8 << 20
_STORE_SHARE = 0.3  # of the object store, for the streams of all workers
_LEAST_STORE_BYTES = 64 << 20

SLOTTED = pa.schema(
    [*SCHEMA, ("step", pa.int64()), ("place", pa.int64()), ("problem", pa.string())]
)
"""A row with the slot that it is for; where it could not be read, ``problem`` says why."""


@dataclass(frozen=True)
class Walk:
    """What one worker reads in one run.

    Args:
        shards_url: folder of the shards.
        plan: of the whole data set.
        places: of the global batch that are this worker's.
        run: the steps that will be taken.
    """

    shards_url: str
    plan: ShardPlan
    places: range
    run: range


def read_here(walk: Walk) -> Generator[pa.Table]:
    """The rows of a walk in the order they are needed, read in this process.

    Yields:
        Tables of `SLOTTED`.
    """
    yield from _read_ahead(walk, walk.run[::_STEPS_PER_CHUNK])


def read_with_ray(walk: Walk, world_size: int) -> Generator[pa.Table]:
    """The rows of a walk in the order they are needed, read ahead by Ray tasks.

    One execution serves the whole run: its start takes seconds, and epochs pass without a pause.
    Its tasks run one after the other, each reading with a few threads. They ask for no CPUs, so
    that they run where the training workers have reserved all of them; reading mostly waits for
    the store. Closing the generator ends the execution.

    Args:
        walk: what to read.
        world_size: workers with such a stream, to share the object store.

    Yields:
        Tables of `SLOTTED`.
    """
    chunks = [{"first": first} for first in walk.run[::_STEPS_PER_CHUNK]]
    if not chunks:
        return
    with DataContext.current(_context(world_size)):
        dataset = ray.data.from_items(
            chunks, override_num_blocks=-(-len(chunks) // _CHUNKS_PER_TASK)
        ).map_batches(
            _read_chunks,
            fn_kwargs={"walk": walk},
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


def _context(world_size: int) -> DataContext:
    context = DataContext.get_current().copy()
    total = ray.cluster_resources().get("object_store_memory", 0.0)
    share = max(_LEAST_STORE_BYTES, _STORE_SHARE * total / world_size)
    context.execution_options = ExecutionOptions(
        preserve_order=True,
        resource_limits=ExecutionResources.for_limits(object_store_memory=share),
    )
    context.target_max_block_size = _BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def _read_chunks(chunks: pa.Table, walk: Walk) -> Iterator[pa.Table]:
    return _read_ahead(walk, chunks.column("first").to_pylist())


def _read_ahead(walk: Walk, chunks: Iterable[int]) -> Iterator[pa.Table]:
    """The reads of chunks of steps in order, a few of them under way at once."""
    reads = (read for first in chunks for read in _reads_of_chunk(walk, first))
    under_way: deque[Future[pa.Table]] = deque()
    with ThreadPoolExecutor(_READS_AHEAD) as readers:
        for read in reads:
            under_way.append(readers.submit(_read_table, walk.shards_url, read))
            if len(under_way) >= _READS_AHEAD:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


def _reads_of_chunk(walk: Walk, first: int) -> list[Read]:
    chunk = range(first, min(first + _STEPS_PER_CHUNK, walk.run.stop))
    return plan_reads(walk.plan, walk.places, walk.run, chunk)


def _read_table(shards_url: str, read: Read) -> pa.Table:
    """The rows of a read with their slots; rows that say why, where they cannot be read."""
    steps, places = zip(*read.slots, strict=True)
    problem: str | None = None
    try:
        table = read_row_group(shards_url, read.file, read.group).select(SCHEMA.names)
        table = table.take(pa.array(read.rows))
    except (OSError, pa.ArrowException, KeyError) as error:
        problem = f"{read.file}, row group {read.group}: {error}"
        table = _unread(len(read.rows))
    extra: dict[str, Any] = {
        "step": pa.array(steps, pa.int64()),
        "place": pa.array(places, pa.int64()),
        "problem": pa.array([problem] * len(read.rows), pa.string()),
    }
    for name, column in extra.items():
        table = table.append_column(name, column)
    return table.cast(SLOTTED)


def _unread(rows: int) -> pa.Table:
    return pa.table({field.name: pa.nulls(rows, field.type) for field in SCHEMA}, SCHEMA)
