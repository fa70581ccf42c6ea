"""One Ray Train worker: run the training loop with its rank, device and share of the data."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from model import Category
from ops_cuda import backend
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.metrics import HEADLINE_METRICS
from pipeline.evaluate.validation import validate
from pipeline.operator_backend import warn_if_not_compiled
from pipeline.stream.training_stream import TrainingStream, open_stream
from pipeline.track.metric_sink import MetricSink
from pipeline.train.checkpoint import (
    CheckpointError,
    DamagedCheckpointError,
    verify_checkpoint,
)
from pipeline.train.checkpoint_store import (
    checkpoint_name,
    list_checkpoints,
    training_url,
    write_checkpoint,
)
from pipeline.train.distributed import gather_objects
from pipeline.train.loop import LoopHooks, LoopPlan, TrainingLoop
from pipeline.train.non_finite import NonFiniteLossError
from pipeline.train.out_of_memory import explain_out_of_memory, training_remedy
from pipeline.train.placement_group import PLACEMENT_GROUP, current_placement_group_id
from pipeline.train.schedule import learning_rate
from pipeline.train.step_report import StepReport
from pipeline.train.training_state import (
    TrainingState,
    new_training_state,
    resume_training_state,
)
from pipeline.train.worker_logging import configure_logging

logger = logging.getLogger(__name__)

# An unavailable tracker delays each checkpoint by at most this long.
CHECKPOINT_FLUSH_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class WorkerTask:
    """What the driver passes to every worker.

    Args:
        config: the job's settings, with the recipe already scaled to the batch.
        categories: classes of the dataset; label i is ``categories[i - 1]``.
        train_shards: URL of the training shards.
        val_shards: URL of the validation shards; None skips validation.
        tracking_uri: tracker that rank 0 logs to.
        run_id: the MLflow run it logs to.
        nan_report: URL of the file that lists the images of a step that became NaN.
    """

    config: RunConfig
    categories: tuple[Category, ...]
    train_shards: str
    val_shards: str | None
    tracking_uri: str
    run_id: str
    nan_report: str


@dataclass(frozen=True)
class WorkerResult:
    """How the run ended on rank 0.

    Args:
        steps: optimizer steps taken in total.
        metrics: the last losses and validation metrics; empty if no steps were left to take.
        not_finite: error message of a run that stopped at a NaN.
    """

    steps: int
    metrics: dict[str, float] = field(default_factory=dict)
    not_finite: str | None = None


def train_worker(settings: Mapping[str, Any]) -> WorkerResult:
    """Train this worker's share of ``settings["task"]``, a ``WorkerTask``; called by Ray Train."""
    task: WorkerTask = settings["task"]
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    with explain_out_of_memory(device, training_remedy(task.config)):
        return _Worker(task, context.get_world_rank(), context.get_world_size(), device).train()


class _Worker:
    def __init__(self, task: WorkerTask, rank: int, world_size: int, device: torch.device) -> None:
        self.task = task
        self.config = task.config.train
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.metrics: dict[str, float] = {}
        # Workers on one machine share its cores: more threads than reserved would compete.
        torch.set_num_threads(max(1, int(self.config.cpus_per_worker)))
        torch.manual_seed(task.config.seed)
        if device.type == "cuda":
            # Products of fp32 matrices in TF32, as torch computes convolutions by default.
            torch.set_float32_matmul_precision("high")
        configure_logging(rank)
        if rank == 0:
            logger.info("training on %s, operators %s", self.device, backend())
            warn_if_not_compiled(self.device)
        self.sink: MetricSink | None = None
        self.stream: TrainingStream
        self.state = self._build_state()

    def _build_state(self) -> TrainingState:
        """Resume from the newest checkpoint in the output folder, or start a new training.

        That checkpoint may be newer than the last one reported to Ray: it is written before the
        validation, and reported after it.
        """
        config, categories = self.task.config, self.task.categories
        newest = None
        if self.rank == 0:
            newest = next(iter(list_checkpoints(config.output)), None)
        # The workers of a machine share one download of the same object.
        checkpoint = gather_objects(None if newest is None else _reported(newest))[0]
        if checkpoint is None:
            return new_training_state(config, categories, self.device)
        shown = storage.join(training_url(config.output), checkpoint.path.rpartition("/")[2])
        with checkpoint.as_directory() as directory:
            folder = Path(directory)
            try:
                verify_checkpoint(folder, shown)
                return resume_training_state(
                    config, categories, self.device, folder, self.rank, shown
                )
            except DamagedCheckpointError as error:
                raise CheckpointError(
                    f"{error} Submit the job again: it sets this checkpoint aside and resumes from "
                    "the one before."
                ) from error

    def train(self) -> WorkerResult:
        total_steps = self.config.schedule.steps
        if self.state.start_step >= total_steps:
            return WorkerResult(self.state.start_step)
        # Only rank 0 talks to MLflow; an unavailable tracker never stops the training.
        if self.rank == 0:
            self.sink = MetricSink(self.task.tracking_uri, self.task.run_id)
        try:
            return self._run_loop(total_steps)
        except NonFiniteLossError as error:
            # Raised on every worker. Return instead of raising: Ray Train would end rank 0, perhaps
            # before the report is written.
            if self.rank == 0:
                report = {"step": error.step, "image_ids": error.image_ids, "what": error.what}
                storage.write_json(self.task.nan_report, report)
            message = error.explain(self.state.start_step, self.state.loaded_from)
            message += f" Step and image ids are in {self.task.nan_report}."
            return WorkerResult(error.step, self.metrics, not_finite=message)
        finally:
            if self.sink is not None:
                self.sink.close()

    def _run_loop(self, total_steps: int) -> WorkerResult:
        config, start_step = self.config, self.state.start_step
        plan = LoopPlan(
            start_step=start_step,
            total_steps=total_steps,
            images_per_step=config.global_batch,
            accumulate=config.accumulate,
            clip_norm=config.optimizer.clip_norm,
            log_every=config.log_every,
        )
        hooks = LoopHooks(
            log=self._log,
            pauses_after=lambda step: self._should_validate(step) or self._should_checkpoint(step),
            pause=self._pause,
        )
        loop = TrainingLoop(
            model=self.state.distributed_model(),
            optimizer=self.state.optimizer,
            lr_schedule=lambda step: learning_rate(step, config.optimizer.lr, config.schedule),
            precision=self.state.precision,
            device=self.device,
            plan=plan,
            hooks=hooks,
        )
        shards = self.task.train_shards
        with open_stream(
            self.task.config,
            shards,
            self.rank,
            self.world_size,
            start_step,
            total_steps,
            self.device,
        ) as stream:
            self.stream = stream
            loop.run(stream)
        return WorkerResult(total_steps, self.metrics)

    def _log(self, report: StepReport) -> None:
        self.metrics |= report.metrics()
        if self.sink is not None:
            self.sink.log(report.metrics(), report.step)
            logger.info(report.line())

    def _should_validate(self, step: int) -> bool:
        if self.task.val_shards is None:
            return False
        every = self.config.validate_every
        return step == self.config.schedule.steps or (every > 0 and step % every == 0)

    def _should_checkpoint(self, step: int) -> bool:
        return step == self.config.schedule.steps or step % self.config.checkpoint_every == 0

    def _pause(self, step: int) -> None:
        """Save, validate and report to Ray, as due; every worker takes part."""
        self.state.average_norm_statistics()
        self._count_bad_rows(step)
        # Saved first: a validation that fails must not cost the checkpoint.
        checkpoint = self._save(step) if self._should_checkpoint(step) else None
        if self._should_validate(step) and self.task.val_shards is not None:
            self._validate(self.task.val_shards, step)
        metrics = {
            "step": step,
            "images_seen": step * self.config.global_batch,
            PLACEMENT_GROUP: current_placement_group_id(),
            **self.metrics,
        }
        ray.train.report(
            metrics,
            checkpoint=checkpoint,
            checkpoint_dir_name=None if checkpoint is None else checkpoint_name(step),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )

    def _save(self, step: int) -> ray.train.Checkpoint | None:
        """Write a checkpoint; return it on rank 0, when every worker knows that it is complete."""
        saved = self.state.state_to_save(step)
        url = None
        if self.rank == 0:
            if self.sink is not None:
                # Steps before a checkpoint are never repeated: deliver their metrics now, in case
                # this worker is killed later.
                self.sink.flush(CHECKPOINT_FLUSH_TIMEOUT_S)
            url = write_checkpoint(self.task.config.output, self.state.inference_detector, saved)
            logger.info("step %d  checkpoint saved", step)
        # A worker that fails in what follows would end the others, also one that still writes.
        gather_objects(url)
        return None if url is None else _reported(url)

    def _count_bad_rows(self, step: int) -> None:
        """Record how many images all workers could not read since these processes started."""
        count = torch.tensor(float(len(self.stream.bad_rows)), device=self.device)
        if self.world_size > 1:
            dist.all_reduce(count)
        self.metrics["train/bad_rows"] = count.item()
        if self.sink is not None:
            self.sink.log({"train/bad_rows": count.item()}, step)

    def _validate(self, shards: str, step: int) -> None:
        settings = self.task.config.evaluate
        batch, precision = settings.batch, settings.precision
        with explain_out_of_memory(self.device, f"lower evaluate.batch (now {batch})"):
            detector = self.state.inference_detector.eval()
            metrics = validate(detector, shards, self.rank, self.world_size, batch, precision)
        if metrics is not None and self.sink is not None:
            values = {f"val/{name}": value for name, value in metrics.values.items()}
            self.metrics |= values
            self.sink.log(values, step)
            shown = (f"{k} {v:.4f}" for k, v in values.items() if k.endswith(HEADLINE_METRICS))
            logger.info("step %d  %s", step, "  ".join(shown))


def _reported(checkpoint_url: str) -> ray.train.Checkpoint:
    """Return a checkpoint of the output folder as Ray Train's object."""
    context = ray.train.get_context().get_storage()
    name = checkpoint_url.rpartition("/")[2]
    return ray.train.Checkpoint(
        f"{context.experiment_fs_path}/{name}", filesystem=context.storage_filesystem
    )
