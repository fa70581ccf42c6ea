"""The stream of training batches of one worker, decoded ahead of the training step."""

import logging
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import pyarrow as pa
import torch

from model.boxes.convention import BoxConvention
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.stream.augmentation.draw import AugmentationRanges
from pipeline.stream.batch_builder import BadRow, BatchSettings, BuiltBatch, build_batch
from pipeline.stream.buffers import allocator
from pipeline.stream.collate import StreamBatch
from pipeline.stream.dataset_checks import check_training_data, flip_swaps_no_keypoints
from pipeline.stream.device_copy import BatchCopy, DeviceCopier
from pipeline.stream.paste_plan import filled_paste_slots
from pipeline.stream.planned_row import PlannedRow, planned_rows
from pipeline.stream.read_plan import ReadPlan
from pipeline.stream.shard_plan import slots_of_rank, split_evenly
from pipeline.stream.shard_reader import read_locally, read_with_ray
from pipeline.stream.training_plan import (
    describe_sampling,
    plan_training,
    read_training_manifest,
)

logger = logging.getLogger(__name__)

# A run stops once its bad rows exceed both limits: the number, and the share of all rows so far.
_MAX_BAD_ROWS = 16
_MAX_BAD_SHARE = 0.2


class StreamError(RuntimeError):
    """Too many rows are unreadable, or the reader ended early."""


def open_stream(
    config: RunConfig,
    shards_url: str,
    rank: int,
    world_size: int,
    start_step: int,
    total_steps: int,
    device: str | torch.device = "cpu",
) -> "TrainingStream":
    """Open one worker's stream from ``start_step`` to ``total_steps``, read by Ray Data.

    Besides the decoded batches, memory holds the encoded images of one row group for each of the
    worker's slots in the global batch and each aspect bin that occurs; twice those whose objects
    are pasted.

    Args:
        config: the job's settings.
        shards_url: folder of the shards.
        rank: 0 .. world_size - 1.
        world_size: number of workers; global_batch must be divisible by workers x accumulate.
        start_step: first step of the stream; a resumed run gets the batches it has not seen.
        total_steps: number of steps of the whole run.
        device: where the batches are used; the copies overlap with its work.

    Raises:
        ConfigError: the dataset's classes, masks or keypoints do not fit the model.
        StorageError: there is no manifest.
    """
    plan = _plan_worker(config, shards_url, rank, world_size, range(start_step, total_steps))
    return TrainingStream(read_with_ray(plan, world_size), plan, config, device)


def open_local_stream(
    config: RunConfig,
    shards_url: str,
    rank: int,
    world_size: int,
    start_step: int,
    total_steps: int,
    device: str | torch.device = "cpu",
) -> "TrainingStream":
    """Open the same stream as `open_stream`, read in this process without a cluster."""
    plan = _plan_worker(config, shards_url, rank, world_size, range(start_step, total_steps))
    return TrainingStream(read_locally(plan), plan, config, device)


def _plan_worker(
    config: RunConfig, shards_url: str, rank: int, world_size: int, steps: range
) -> ReadPlan:
    """Check that the data fits the model, and plan one worker's reads; rank 0 logs warnings."""
    shards_url = storage.absolute(shards_url)
    manifest = read_training_manifest(config, shards_url)
    check_training_data(config, manifest, shards_url)
    plan = plan_training(config, manifest)
    if rank == 0:
        for sentence in describe_sampling(config, plan):
            logger.info("%s", sentence)
    if rank == 0 and flip_swaps_no_keypoints(config):
        logger.warning(
            "no keypoint is named left_... or right_..., so flipping an image swaps no keypoints. "
            "If some are mirror images of each other, set data.flip_probability=0 and "
            "data.vertical_flip_probability=0"
        )
    slots = slots_of_rank(plan, rank, world_size)
    return ReadPlan(shards_url, plan, slots, steps, config.data.copy_paste_probability)


class TrainingStream(Iterator[StreamBatch]):
    """A closable iterator of batches: use it in a ``with`` block, or call `close`.

    One thread reads. A few threads decode, each a whole micro-batch: decoding and resizing release
    the GIL. ``bad_rows`` lists the unreadable rows so far.
    """

    def __init__(
        self,
        tables: Generator[pa.Table],
        plan: ReadPlan,
        config: RunConfig,
        device: str | torch.device,
    ) -> None:
        self.bad_rows: list[BadRow] = []
        self._tables = tables
        self._plan = plan
        self._settings = BatchSettings(
            augmentation=_augmentation_ranges(config),
            size_divisor=config.model.input.size_divisor,
            with_masks=config.model.mask is not None,
            keypoint_names=config.model.keypoint.names if config.model.keypoint else None,
            canvas=config.train.canvas,
            paste_probability=plan.paste_probability,
        )
        self._micro_slots = split_evenly(plan.slots, config.train.accumulate)
        self._lookahead = max(config.data.lookahead_batches, config.data.decode_threads)
        self._early_rows: dict[tuple[int, int], PlannedRow] = {}  # by (step, slot)
        self._rows_returned = 0
        self._reader = ThreadPoolExecutor(1, "stream-read")
        self._decoders = ThreadPoolExecutor(config.data.decode_threads, "stream-decode")
        self._micro_batches = self._plan_micro_batches()
        self._pending: deque[Future[BuiltBatch]] = deque()
        self._allocate = allocator(torch.device(device))
        self._copier = DeviceCopier(torch.device(device))
        self._next: tuple[BuiltBatch, BatchCopy] | None = None  # its copy has started
        # Start now rather than at the first batch: the model is built in the meantime.
        self._decode_ahead()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamBatch:
        try:
            if self._next is None and not self._pending:
                raise StopIteration
            built, copy = self._next or self._start_copy()
            # The next batch is copied during this step, unless it would have to be waited for.
            is_ready = (
                self._pending and self._pending[0].done() and not self._pending[0].exception()
            )
            self._next = self._start_copy() if is_ready else None
            self._record_bad_rows(built)
            return copy.wait()
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
        self._next = None
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._tables.close()
        self._early_rows.clear()

    def _start_copy(self) -> tuple[BuiltBatch, BatchCopy]:
        """Wait for the next decoded batch and start to copy it."""
        built = self._pending.popleft().result()
        self._decode_ahead()
        return built, self._copier.start(built.batch)

    def _plan_micro_batches(self) -> Iterator[tuple[int, range]]:
        """Yield the step and slots of each of this worker's micro-batches."""
        for step in self._plan.steps:
            for slots in self._micro_slots:
                yield step, slots

    def _decode_ahead(self) -> None:
        """Keep the decoders a few micro-batches ahead of the training loop."""
        while len(self._pending) < self._lookahead:
            micro_batch = next(self._micro_batches, None)
            if micro_batch is None:
                return
            step, slots = micro_batch
            rows = self._reader.submit(self._take_rows, step, slots)
            self._pending.append(self._decoders.submit(self._build, step, rows))

    def _take_rows(self, step: int, slots: range) -> list[PlannedRow]:
        """Return the rows of a micro-batch, reading tables until all are there.

        Rows of later steps that are read on the way are kept until they are needed.
        """
        plan, taken = self._plan, []
        filled = filled_paste_slots(plan.shard_plan, step, slots, plan.paste_probability)
        for slot in (*slots, *filled):
            while (step, slot) not in self._early_rows:
                table = next(self._tables, None)
                if table is None:
                    raise StreamError(f"the reader ended before step {step}")
                self._early_rows |= {(row.step, row.slot): row for row in planned_rows(table)}
            taken.append(self._early_rows.pop((step, slot)))
        return taken

    def _build(self, step: int, rows: Future[list[PlannedRow]]) -> BuiltBatch:
        plan, settings = self._plan.shard_plan, self._settings
        return build_batch(plan, settings, step, rows.result(), self._allocate)

    def _record_bad_rows(self, built: BuiltBatch) -> None:
        """Log and count bad rows; raise if there are too many."""
        self._rows_returned += built.row_count
        for bad in built.bad_rows:
            logger.warning(
                "%s row %d: %s in step %d: %s",
                bad.file,
                bad.row,
                bad.effect,
                bad.step,
                bad.reason,
            )
        self.bad_rows += built.bad_rows
        if len(self.bad_rows) > max(_MAX_BAD_ROWS, _MAX_BAD_SHARE * self._rows_returned):
            raise StreamError(
                f"{len(self.bad_rows)} of {self._rows_returned} rows below "
                f"{self._plan.shards_url} cannot be read; the last error: "
                f"{self.bad_rows[-1].reason}"
            )


def _augmentation_ranges(config: RunConfig) -> AugmentationRanges:
    data, conventions = config.data, config.model.conventions
    return AugmentationRanges(
        short_sides=data.train_short_sides or (config.model.input.short_side,),
        long_side=config.model.input.long_side,
        flip_probability=data.flip_probability,
        vertical_flip_probability=data.vertical_flip_probability,
        quarter_turn_probability=data.quarter_turn_probability,
        random_crop=data.random_crop,
        scale_jitter=data.scale_jitter,
        color_jitter=data.color_jitter,
        rounding=conventions.resize_rounding,
        convention=BoxConvention(conventions.legacy_geometry),
    )
