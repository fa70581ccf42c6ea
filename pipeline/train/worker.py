"""One Ray Train worker: run the training loop with its rank, device and share of the data."""

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch

from ops_cuda import backend
from pipeline import storage
from pipeline.operator_backend import warn_if_not_compiled
from pipeline.stream.batch_builder import BadRow
from pipeline.stream.training_stream import open_stream
from pipeline.train.checkpoint import (
    CheckpointError,
    DamagedCheckpointError,
    verify_checkpoint,
)
from pipeline.train.checkpoint_store import list_checkpoints, training_url
from pipeline.train.checkpoint_writer import reported_checkpoint
from pipeline.train.distributed import gather_objects
from pipeline.train.loop import LoopHooks, LoopPlan, TrainingLoop
from pipeline.train.metric_recorder import MetricRecorder
from pipeline.train.nan_batch import save_step
from pipeline.train.non_finite import NonFiniteLossError
from pipeline.train.out_of_memory import (
    StepOutOfMemoryError,
    explain_out_of_memory,
    training_remedy,
)
from pipeline.train.pauses import TrainingPauses
from pipeline.train.run_tracking import memory_metrics, recording
from pipeline.train.schedule import learning_rate
from pipeline.train.stall_watch import StallWatch
from pipeline.train.step_report import StepReport
from pipeline.train.training_state import (
    TrainingState,
    new_training_state,
    resume_training_state,
)
from pipeline.train.training_validation import TrainingValidation
from pipeline.train.worker_count import fit_to_workers
from pipeline.train.worker_logging import configure_logging
from pipeline.train.worker_place import WorkerPlace
from pipeline.train.worker_task import WorkerResult, WorkerTask

logger = logging.getLogger(__name__)


def train_worker(settings: Mapping[str, Any]) -> WorkerResult:
    """Train this worker's share of ``settings["task"]``, a ``WorkerTask``; called by Ray Train."""
    task: WorkerTask = settings["task"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    place = WorkerPlace(context.get_world_rank(), context.get_world_size(), device)
    with explain_out_of_memory(device, training_remedy(task.config)):
        return _Worker(task, place).train()


class _Worker:
    def __init__(self, task: WorkerTask, place: WorkerPlace) -> None:
        train = fit_to_workers(task.config.train, place.world_size)
        self.task = replace(task, config=task.config.model_copy(update={"train": train}))
        self.config = train
        self.place = place
        self.skipped_steps = 0
        self.last_skipped: NonFiniteLossError | None = None
        self.bad_rows: list[BadRow] = []
        # Workers on one machine share its cores: more threads than reserved would compete.
        torch.set_num_threads(max(1, int(self.config.worker_cpus)))
        # The same on all workers, so that they begin with the same weights, also those of the
        # average, which DDP does not broadcast. Each step has random numbers of its own.
        torch.manual_seed(task.config.seed)
        if place.device.type == "cuda":
            # Products of fp32 matrices in TF32, as torch computes convolutions by default.
            torch.set_float32_matmul_precision("high")
        configure_logging(place.rank)
        if place.rank == 0:
            logger.info(
                "training on %s with %d workers, operators %s",
                place.device,
                place.world_size,
                backend(),
            )
            warn_if_not_compiled(place.device)
        self.state = self._build_state()

    def _build_state(self) -> TrainingState:
        """Resume from the newest checkpoint in the output folder, or start a new training.

        That checkpoint may be newer than the last one reported to Ray: it is written before the
        validation, and reported after it.
        """
        config, categories, device = self.task.config, self.task.categories, self.place.device
        newest = None
        if self.place.rank == 0:
            newest = next(iter(list_checkpoints(config.output)), None)
        # The workers of a machine share one download of the same object.
        checkpoint = gather_objects(None if newest is None else reported_checkpoint(newest))[0]
        if checkpoint is None:
            return new_training_state(config, categories, device)
        shown = storage.join(training_url(config.output), checkpoint.path.rpartition("/")[2])
        with checkpoint.as_directory() as directory:
            # A worker that comes later downloads into the same folder again: read after the last.
            gather_objects(directory)
            folder = Path(directory)
            try:
                verify_checkpoint(folder, shown)
                return resume_training_state(
                    config, categories, device, folder, self.place.rank, shown
                )
            except DamagedCheckpointError as error:
                raise CheckpointError(
                    f"{error} Submit the job again: it sets this checkpoint aside and resumes from "
                    "the one before."
                ) from error

    def train(self) -> WorkerResult:
        total_steps = self.config.schedule.steps
        start_step = self.state.start_step
        # Only rank 0 talks to MLflow; an unavailable tracker never stops the training.
        with self._recorder() as self.recorder:
            pauses = self._pauses()
            pauses.resume(start_step, self.task.ended_at)
            if start_step >= total_steps or pauses.stopped is not None:
                return self._result(start_step, pauses)
            try:
                return self._result(self._run_loop(total_steps, pauses), pauses)
            except NonFiniteLossError as error:
                # Raised on every worker. Return instead of raising: Ray Train would end rank 0,
                # perhaps before the report is written.
                if pauses.validation is not None:
                    pauses.validation.record_finished(wait=True)
                message = self._explain_not_finite(error)
                return WorkerResult(error.step, self.recorder.latest, not_finite=message)

    def _recorder(self) -> AbstractContextManager[MetricRecorder]:
        if self.place.rank != 0:
            return MetricRecorder(None)
        return recording(
            self.task.tracking_uri,
            self.task.run_id,
            self.task.config.output,
            self.state.loaded,
            self.task.config.track.system_interval_s,
            self.task.config.track.log_checkpoints,
        )

    def _pauses(self) -> TrainingPauses:
        task, validation = self.task, None
        if task.val_shards is not None:
            validation = TrainingValidation(
                task.config, self.place, self.state, task.val_shards, self.recorder, task.is_trial
            )
        return TrainingPauses(
            task.config,
            self.place,
            self.state,
            validation,
            self.recorder,
            count_bad_rows=lambda: len(self.bad_rows),
        )

    def _run_loop(self, total_steps: int, pauses: TrainingPauses) -> int:
        """Take all steps that are left; return how many were taken in total."""
        config, place, start_step = self.config, self.place, self.state.start_step
        limit_s = None if config.stall_minutes is None else 60 * config.stall_minutes
        with (
            open_stream(
                self.task.config,
                self.task.train_shards,
                place.rank,
                place.world_size,
                start_step,
                total_steps,
                place.device,
            ) as stream,
            StallWatch(place.rank, limit_s) as watch,
        ):
            self.bad_rows = stream.bad_rows
            loop = self._loop(total_steps, pauses, watch)
            remedy = training_remedy(self.task.config)
            with explain_out_of_memory(place.device, remedy, StepOutOfMemoryError):
                return loop.run(stream)

    def _result(self, steps: int, pauses: TrainingPauses) -> WorkerResult:
        if pauses.stopped is not None and self.place.rank == 0:
            logger.info("training ends at step %d: %s", steps, pauses.stopped)
        metrics = self.recorder.latest
        if pauses.validation is None:
            return WorkerResult(steps, metrics, stopped=pauses.stopped)
        # A training that has taken all steps may have been validated by an earlier process.
        metrics = {**pauses.validation.metrics_after(steps), **metrics}
        best_step, best_metrics = pauses.validation.best or (None, {})
        return WorkerResult(steps, metrics, best_step, best_metrics, stopped=pauses.stopped)

    def _loop(self, total_steps: int, pauses: TrainingPauses, watch: StallWatch) -> TrainingLoop:
        config = self.config
        return TrainingLoop(
            model=self.state.distributed_model(),
            optimizer=self.state.optimizer,
            lr_schedule=lambda step: learning_rate(step, config.optimizer.lr, config.schedule),
            precision=self.state.precision,
            device=self.place.device,
            plan=LoopPlan(
                start_step=self.state.start_step,
                total_steps=total_steps,
                images_per_step=config.global_batch,
                accumulate=config.accumulate,
                clip_norm=config.optimizer.clip_norm,
                log_every=config.log_every,
                max_skipped_steps=config.max_skipped_steps,
                seed=self.task.config.seed,
                rank=self.place.rank,
            ),
            hooks=LoopHooks(
                log=self._log,
                pauses_after=pauses.due_after,
                pause=pauses.pause,
                ends_after=pauses.ends_after,
                skipped=self._log_skipped,
                activity=watch.now,
            ),
        )

    def _log(self, report: StepReport) -> None:
        self.recorder.record({**report.metrics(), **memory_metrics(self.place.device)}, report.step)
        if self.place.rank == 0:
            logger.info(report.line())

    def _log_skipped(self, error: NonFiniteLossError) -> None:
        self.skipped_steps += 1
        self.last_skipped = error
        self.recorder.record({"train/skipped_steps": self.skipped_steps}, error.step)
        self._report_images(error, is_last=False)
        if self.place.rank == 0:
            logger.warning("step %d is skipped: %s", error.step, error)

    def _explain_not_finite(self, error: NonFiniteLossError) -> str:
        """Write what is known of the step that ends the training; return the error message."""
        # Too many skipped steps are an error without images: those of the last one are known.
        step = error if error.image_ids else self.last_skipped or error
        is_saved = self._report_images(step, is_last=True)
        known = "Step and image ids are" if step.image_ids else "The step is"
        batch = f", the batch in {self.task.nan_batch}" if is_saved else ""
        message = error.explain(self.state.start_step, self.state.loaded_from)
        return f"{message} {known} in {self.task.nan_report}{batch}."

    def _report_images(self, error: NonFiniteLossError, is_last: bool) -> bool:
        """Write which images a step had, and the batch of the first and of the last such step.

        Returns:
            Whether the batch is written.
        """
        if self.place.rank != 0:
            return False
        task = self.task
        report = {"step": error.step, "image_ids": error.image_ids, "what": error.what}
        storage.write_json(task.nan_report, report)
        if not error.image_ids or not (is_last or self.skipped_steps <= 1):
            return False
        workers, url, ids = self.place.world_size, task.nan_batch, error.image_ids
        try:
            return save_step(task.config, task.train_shards, workers, error.step, ids, url) > 0
        except Exception as failure:  # it is the NaN that must be reported
            logger.warning("the batch of step %d is not saved: %s", error.step, failure)
            return False
