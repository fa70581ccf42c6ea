"""What happens when training pauses: save a checkpoint, validate, report to Ray, perhaps stop."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import ray.train
import torch

from pipeline.config import RunConfig
from pipeline.evaluate.metrics import HEADLINE_METRICS
from pipeline.evaluate.validation import validate
from pipeline.evaluate.validation_losses import validation_losses
from pipeline.train.checkpoint_store import checkpoint_name
from pipeline.train.checkpoint_writer import CheckpointWriter
from pipeline.train.compilation import uncompiled
from pipeline.train.distributed import gather_objects
from pipeline.train.metric_recorder import MetricRecorder
from pipeline.train.out_of_memory import explain_out_of_memory
from pipeline.train.placement_group import PLACEMENT_GROUP, current_placement_group_id
from pipeline.train.training_state import TrainingState
from pipeline.train.validation_history import LOSS, read_history, write_history

logger = logging.getLogger(__name__)

# An unavailable tracker delays each checkpoint by at most this long.
CHECKPOINT_FLUSH_TIMEOUT_S = 5.0

_UPLOADS_LATER = ray.train.CheckpointUploadMode.ASYNC
_IS_UPLOADED = ray.train.CheckpointUploadMode.NO_UPLOAD


@dataclass(frozen=True)
class WorkerPlace:
    """Where a worker runs.

    Args:
        rank: 0 .. world_size - 1.
        world_size: number of workers.
        device: its device.
    """

    rank: int
    world_size: int
    device: torch.device


class TrainingPauses:
    """Decides when training pauses and when it ends; every worker calls the same methods.

    Args:
        config: the job's settings.
        place: rank and device of this worker.
        state: what is trained.
        val_shards: URL of the validation shards; None skips validation.
        recorder: receives the metrics.
        count_bad_rows: returns how many images this worker could not read.
        clock: returns seconds from any origin.
    """

    def __init__(
        self,
        config: RunConfig,
        place: WorkerPlace,
        state: TrainingState,
        val_shards: str | None,
        recorder: MetricRecorder,
        count_bad_rows: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.place = place
        self.state = state
        self.val_shards = val_shards
        self.recorder = recorder
        self.stopped: str | None = None
        """Why training ends before its last step; None while it goes on."""
        self._writer = CheckpointWriter(config.output)
        self._count_bad_rows = count_bad_rows
        self._clock = clock
        self._started_s = clock() - state.trained_s
        self._out_of_time_at: int | None = None
        # Only rank 0 has the metrics: it keeps the history and decides for all.
        self._history = read_history(config, state.start_step) if place.rank == 0 else None

    def due_after(self, step: int) -> bool:
        """Return whether training pauses after this number of steps."""
        # First: workers agree on the time at fixed steps, and the last step pauses for more.
        return (
            self._out_of_time(step) or self._should_validate(step) or self._should_checkpoint(step)
        )

    def ends_after(self, step: int) -> bool:
        """Return whether training ends early; asked after the pause of a step."""
        return self.stopped is not None

    def pause(self, step: int) -> None:
        """Save, validate and report to Ray, as due; decide whether to end."""
        self.state.average_norm_statistics()
        self._record_bad_rows(step)
        # Saved first: a validation that fails must not cost the checkpoint.
        uploads_later = self._uploads_later(step)
        checkpoint = self._save(step, uploads_later) if self._should_checkpoint(step) else None
        if self._should_validate(step) and self.val_shards is not None:
            self._validate(self.val_shards, step)
        if self._out_of_time_at == step and step < self.config.train.schedule.steps:
            self.stopped = f"train.max_hours={self.config.train.max_hours:g} is over"
        metrics = {
            "step": step,
            "images_seen": step * self.config.train.global_batch,
            PLACEMENT_GROUP: current_placement_group_id(),
            **self.recorder.latest,
        }
        ray.train.report(
            metrics,
            checkpoint=checkpoint,
            checkpoint_dir_name=None if checkpoint is None else checkpoint_name(step),
            checkpoint_upload_mode=_UPLOADS_LATER if uploads_later else _IS_UPLOADED,
            checkpoint_upload_fn=self._writer.upload if uploads_later else None,
        )

    def _should_validate(self, step: int) -> bool:
        if self.val_shards is None:
            return False
        every = self.config.train.validate_every
        return self._is_last(step) or (every > 0 and step % every == 0)

    def _should_checkpoint(self, step: int) -> bool:
        train = self.config.train
        may_be_best = train.final_checkpoint == "best" and self._should_validate(step)
        return self._is_last(step) or step % train.checkpoint_every == 0 or may_be_best

    def _uploads_later(self, step: int) -> bool:
        """Return whether a checkpoint is uploaded while training goes on.

        A worker that fails in a validation would end the others, also one that still uploads.
        """
        waits = self._should_validate(step) or self._is_last(step)
        return self._should_checkpoint(step) and self._writer.can_upload_later and not waits

    def _is_last(self, step: int) -> bool:
        return step in (self.config.train.schedule.steps, self._out_of_time_at)

    def _out_of_time(self, step: int) -> bool:
        """Return whether ``train.max_hours`` are over; workers agree every ``log_every`` steps."""
        train = self.config.train
        if train.max_hours is None or self._out_of_time_at is not None or step % train.log_every:
            return self._out_of_time_at == step
        over = self._clock() - self._started_s >= train.max_hours * 3600
        if gather_objects(over)[0]:
            self._out_of_time_at = step
        return self._out_of_time_at == step

    def _record_bad_rows(self, step: int) -> None:
        """Record how many images all workers could not read since these processes started."""
        count = float(sum(gather_objects(self._count_bad_rows())))
        self.recorder.record({"train/bad_rows": count}, step)

    def _save(self, step: int, upload_later: bool) -> ray.train.Checkpoint | None:
        """Write a checkpoint; return it on rank 0, when every worker knows that it is written."""
        saved = replace(self.state.state_to_save(step), trained_s=self._clock() - self._started_s)
        checkpoint = None
        if self.place.rank == 0:
            # Steps before a checkpoint are never repeated: deliver their metrics now, in case this
            # worker is killed later.
            self.recorder.flush(CHECKPOINT_FLUSH_TIMEOUT_S)
            detector = self.state.inference_detector
            checkpoint = self._writer.write(detector, saved, upload_later)
            logger.info("step %d  checkpoint saved", step)
        # A worker that fails in what follows would end the others, also one that still writes.
        gather_objects(None)
        return checkpoint

    def _validate(self, shards: str, step: int) -> None:
        """Record the validation metrics; rank 0 adds them to the history and decides for all."""
        values = self._measure(shards)
        stopped = None
        if values is not None and self._history is not None:
            named = {f"val/{name}": value for name, value in values.items()}
            self.recorder.record(named, step)
            is_shown = (LOSS, *HEADLINE_METRICS)
            shown = (f"{k} {v:.4f}" for k, v in named.items() if k.endswith(is_shown))
            logger.info("step %d  %s", step, "  ".join(shown))
            self._history = self._history.add(step, self._best_value(values))
            write_history(self.config, self._history)
            stopped = self._history.reason_to_stop(self.config.train.patience)
        stopped = gather_objects(stopped)[0]
        self.stopped = stopped if step < self.config.train.schedule.steps else None

    def _best_value(self, values: Mapping[str, float]) -> float:
        """Return the value of the best checkpoint's metric; NaN if this split has none."""
        metric = "" if self._history is None else self._history.metric
        if metric not in values:
            logger.warning(
                "%s is not measured on the validation shards, so no checkpoint is the best; set "
                "train.best_metric",
                metric,
            )
        return values.get(metric, math.nan)

    def _measure(self, shards: str) -> dict[str, float] | None:
        """Return the metrics, with losses if they are configured; None on all ranks but 0."""
        settings, place = self.config.evaluate, self.place
        remedy = f"lower evaluate.batch (now {settings.batch})"
        with (
            explain_out_of_memory(place.device, remedy),
            uncompiled() if self.config.train.compile else nullcontext(),
        ):
            detector = self.state.inference_detector.eval()
            metrics = validate(
                detector,
                shards,
                place.rank,
                place.world_size,
                settings.batch,
                settings.precision,
                settings.max_detections,
            )
            losses = {}
            if self.config.train.validation_loss:
                losses = validation_losses(
                    detector, self.config, shards, place.rank, place.world_size
                )
        return None if metrics is None else {**metrics.values, **losses}
