"""The batches of a training run, decoded ahead: what one worker's loop iterates over."""

import logging
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import pyarrow as pa

from model.boxes.convention import BoxGeometry
from pipeline.config import RunConfig
from pipeline.shards.manifest import Manifest, read_manifest
from pipeline.stream.arrived_row import ArrivedRow, arrived_rows
from pipeline.stream.batch_builder import BadRow, BuiltBatch, Recipe, build_batch
from pipeline.stream.collate import StreamBatch
from pipeline.stream.data_fit import check_fit, flips_keep_every_name
from pipeline.stream.shard_plan import ShardPlan, places_of_rank, plan_shards
from pipeline.stream.shard_reader import Walk, read_here, read_with_ray

logger = logging.getLogger(__name__)

_BAD_ROWS = 16
_BAD_SHARE = 0.2


class StreamError(RuntimeError):
    """So many rows cannot be read that training would not be what it claims to be."""


def open_stream(
    config: RunConfig,
    shards_url: str,
    rank: int,
    world_size: int,
    start_step: int,
    total_steps: int,
) -> "TrainingStream":
    """One worker's batches from ``start_step`` until ``total_steps``, read by Ray Data.

    Memory, besides the decoded batches: the encoded images of one row group for each of the
    worker's places in the global batch, twice where both orientations occur.

    Args:
        config: of the run.
        shards_url: folder of the shards.
        rank: 0 .. world_size - 1.
        world_size: workers; global_batch must divide by workers x accumulate.
        start_step: first step to give batches for; a resumed run continues exactly.
        total_steps: end of the run.

    Raises:
        ConfigError: the data set's classes, masks or keypoints do not fit the model.
        StorageError: there is no manifest.
    """
    walk = _walk(config, shards_url, rank, world_size, range(start_step, total_steps))
    return TrainingStream(read_with_ray(walk, world_size), walk, config)


def open_local_stream(
    config: RunConfig,
    shards_url: str,
    rank: int,
    world_size: int,
    start_step: int,
    total_steps: int,
) -> "TrainingStream":
    """The batches that `open_stream` gives, read in this process without a cluster."""
    walk = _walk(config, shards_url, rank, world_size, range(start_step, total_steps))
    return TrainingStream(read_here(walk), walk, config)


def _walk(config: RunConfig, shards_url: str, rank: int, world_size: int, run: range) -> Walk:
    manifest = read_manifest(shards_url)
    check_fit(config, manifest, shards_url)
    plan = plan_shards(manifest, config.train.global_batch, config.seed, config.data.min_keypoints)
    if rank == 0:
        _say_what_is_special(config, plan, manifest)
    return Walk(shards_url, plan, places_of_rank(plan, rank, world_size), run)


def _say_what_is_special(config: RunConfig, plan: ShardPlan, manifest: Manifest) -> None:
    if plan.images < manifest.rows:
        logger.info(
            "%d of %d images have fewer than %d labelled keypoints and are left out",
            manifest.rows - plan.images,
            manifest.rows,
            config.data.min_keypoints,
        )
    if flips_keep_every_name(config):
        logger.warning(
            "no keypoint is called left_... or right_...: a flipped image keeps every name. If "
            "some are mirror images of each other, set data.flip_probability=0"
        )


class TrainingStream(Iterator[StreamBatch]):
    """An iterator of batches that can be closed: use it in a ``with``, or call `close`.

    One thread reads, a few decode, each a whole micro-batch: decoding and resizing release the
    interpreter lock. ``bad_rows`` names the rows so far that could not be read.
    """

    def __init__(self, tables: Generator[pa.Table], walk: Walk, config: RunConfig) -> None:
        self.bad_rows: list[BadRow] = []
        self._tables = tables
        self._walk = walk
        self._recipe = Recipe(
            short_sides=config.data.train_short_sides or (config.model.input.short_side,),
            long_side=config.model.input.long_side,
            flip_probability=config.data.flip_probability,
            size_divisor=config.model.input.size_divisor,
            with_masks=config.model.mask is not None,
            keypoint_names=config.model.keypoint.names if config.model.keypoint else None,
            rounding=config.model.conventions.resize_rounding,
            geometry=BoxGeometry(config.model.conventions.legacy_geometry),
        )
        self._micro_batch = len(walk.places) // config.train.accumulate
        self._ahead = max(config.data.lookahead_batches, config.data.decode_threads)
        self._arrived: dict[tuple[int, int], ArrivedRow] = {}
        self._images_given = 0
        self._reader = ThreadPoolExecutor(1, "stream-read")
        self._decoders = ThreadPoolExecutor(config.data.decode_threads, "stream-decode")
        self._parts = self._micro_batches()
        self._pending: deque[Future[BuiltBatch]] = deque()
        # From now on, not from the first batch: the model can be built meanwhile.
        self._decode_ahead()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamBatch:
        try:
            if not self._pending:
                raise StopIteration
            built = self._pending.popleft().result()
            self._decode_ahead()
            return self._give(built)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and the Ray Data execution; a second call does nothing."""
        self._pending.clear()
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._tables.close()
        self._arrived.clear()

    def _micro_batches(self) -> Iterator[tuple[int, range]]:
        """Every step of the run with this worker's places in it, part by part."""
        places = self._walk.places
        for step in self._walk.run:
            for first in range(0, len(places), self._micro_batch):
                yield step, places[first : first + self._micro_batch]

    def _decode_ahead(self) -> None:
        """Keep the decoders a few micro-batches ahead of the loop."""
        while len(self._pending) < self._ahead:
            part = next(self._parts, None)
            if part is None:
                return
            rows = self._reader.submit(self._take_rows, *part)
            self._pending.append(self._decoders.submit(self._build, part[0], rows))

    def _take_rows(self, step: int, places: range) -> list[ArrivedRow]:
        """The rows of a micro-batch; on the way, rows of later steps arrive and are kept."""
        taken = []
        for place in places:
            while (step, place) not in self._arrived:
                table = next(self._tables, None)
                if table is None:
                    raise StreamError(f"the reader ended before step {step}")
                self._arrived |= {(row.step, row.place): row for row in arrived_rows(table)}
            taken.append(self._arrived.pop((step, place)))
        return taken

    def _build(self, step: int, rows: Future[list[ArrivedRow]]) -> BuiltBatch:
        return build_batch(self._walk.plan, self._recipe, step, rows.result())

    def _give(self, built: BuiltBatch) -> StreamBatch:
        """Count what is given, and stop where bad rows are no longer the exception."""
        self._images_given += len(built.batch.images)
        for bad in built.bad_rows:
            logger.warning(
                "%s row %d left out of step %d: %s", bad.file, bad.row, bad.step, bad.reason
            )
        self.bad_rows += built.bad_rows
        if len(self.bad_rows) > max(_BAD_ROWS, _BAD_SHARE * self._images_given):
            raise StreamError(
                f"{len(self.bad_rows)} of {self._images_given} rows below "
                f"{self._walk.shards_url} cannot be read, the last: {self.bad_rows[-1].reason}"
            )
        return built.batch
