"""What happens when training pauses: save a checkpoint, validate, report to Ray, perhaps stop."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace

import ray.train

from pipeline.config import RunConfig
from pipeline.train.checkpoint_store import checkpoint_name, checkpoint_url
from pipeline.train.checkpoint_writer import CheckpointWriter, reported_checkpoint
from pipeline.train.distributed import gather_objects
from pipeline.train.metric_recorder import MetricRecorder
from pipeline.train.placement_group import PLACEMENT_GROUP, current_placement_group_id
from pipeline.train.training_state import TrainingState
from pipeline.train.training_validation import TrainingValidation
from pipeline.train.worker_place import WorkerPlace

logger = logging.getLogger(__name__)

# An unavailable tracker delays each checkpoint by at most this long.
CHECKPOINT_FLUSH_TIMEOUT_S = 5.0

_UPLOADS_LATER = ray.train.CheckpointUploadMode.ASYNC
_IS_UPLOADED = ray.train.CheckpointUploadMode.NO_UPLOAD


class TrainingPauses:
    """Decides when training pauses and when it ends; every worker calls the same methods.

    Args:
        config: the job's settings.
        place: rank and device of this worker.
        state: what is trained.
        validation: validates; None without validation shards.
        recorder: receives the metrics.
        count_bad_rows: returns how many images this worker could not read.
        clock: returns seconds from any origin.
    """

    def __init__(
        self,
        config: RunConfig,
        place: WorkerPlace,
        state: TrainingState,
        validation: TrainingValidation | None,
        recorder: MetricRecorder,
        count_bad_rows: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.place = place
        self.state = state
        self.validation = validation
        self.recorder = recorder
        self.stopped: str | None = None
        """Why training ends before its last step; None while it goes on."""
        self._writer = CheckpointWriter(config.output)
        self._count_bad_rows = count_bad_rows
        self._clock = clock
        self._started_s = clock() - state.trained_s
        self._out_of_time_at: int | None = None

    def due_after(self, step: int) -> bool:
        """Return whether training pauses after this number of steps."""
        # First: workers agree on the time at fixed steps, and the last step pauses for more.
        return (
            self._out_of_time(step) or self._should_validate(step) or self._should_checkpoint(step)
        )

    def ends_after(self, step: int) -> bool:
        """Return whether training ends early; asked after each step, and after its pause."""
        if self.validation is not None:
            self.validation.record_finished(wait=False)
        return self.stopped is not None

    def resume(self, step: int, ended_at: int | None = None) -> None:
        """Do what a job that was interrupted may have left undone after ``step`` steps.

        Every worker must call it before it goes on. The validation of a checkpoint is repeated if
        the job ended before its metrics were recorded, and the decision to end is taken again. A
        sweep is told of a trial's checkpoint that it may not have heard of.

        Args:
            step: steps taken; of the checkpoint that training resumes from.
            ended_at: steps after which an earlier job ended; this one goes on from there.
        """
        if self.validation is None or not self._should_validate(step):
            return
        is_lost = not self.validation.has_validated(step)
        if is_lost:
            logger.info("step %d  the validation of this checkpoint is repeated", step)
            self.validation.validate(step, self._is_last(step))
        if step not in (ended_at, self.config.train.schedule.steps):
            self.stopped = self.validation.reason_to_stop()
        # The last report of a trial is its result: it is repeated, because it may have been lost.
        is_end = self.stopped is not None or self._is_last(step)
        if self.validation.is_trial and (is_lost or is_end):
            checkpoint = None
            if self.place.rank == 0:
                url = checkpoint_url(self.config.output, checkpoint_name(step))
                checkpoint = reported_checkpoint(url)
            self._report(step, checkpoint, uploads_later=False)

    def pause(self, step: int) -> None:
        """Save, validate and report to Ray, as due; decide whether to end."""
        if self.validation is not None:
            # Before the next checkpoint, so that the best one is known when old ones are deleted.
            self.validation.record_finished(wait=True)
        self.state.average_norm_statistics()
        self._record_bad_rows(step)
        # Saved first: a validation that fails must not cost the checkpoint.
        uploads_later = self._uploads_later(step)
        checkpoint = self._save(step, uploads_later) if self._should_checkpoint(step) else None
        if self._should_validate(step) and self.validation is not None:
            self.validation.validate(step, self._is_last(step))
            if step < self.config.train.schedule.steps:
                self.stopped = self.validation.reason_to_stop()
        if self._out_of_time_at == step and step < self.config.train.schedule.steps:
            self.stopped = f"train.max_hours={self.config.train.max_hours:g} is over"
        self._report(step, checkpoint, uploads_later)

    def _report(
        self, step: int, checkpoint: ray.train.Checkpoint | None, uploads_later: bool
    ) -> None:
        """Report the latest metrics, and on rank 0 the checkpoint; every worker must call it."""
        validated = {} if self.validation is None else self.validation.metrics_after(step)
        metrics = {
            "step": step,
            "images_seen": step * self.config.train.global_batch,
            PLACEMENT_GROUP: current_placement_group_id(),
            # Those that an earlier process has measured are not among the latest.
            **validated,
            **self.recorder.latest,
        }
        self.recorder.after_pause()
        ray.train.report(
            metrics,
            checkpoint=checkpoint,
            checkpoint_dir_name=None if checkpoint is None else checkpoint_name(step),
            checkpoint_upload_mode=_UPLOADS_LATER if uploads_later else _IS_UPLOADED,
            checkpoint_upload_fn=self._writer.upload if uploads_later else None,
        )

    def _should_validate(self, step: int) -> bool:
        if self.validation is None:
            return False
        every = self.config.train.validate_every
        return step > 0 and (self._is_last(step) or (every > 0 and step % every == 0))

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
