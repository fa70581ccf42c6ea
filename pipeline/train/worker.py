"""One Ray Train worker: its rank, device and share of the data around the training loop."""

import logging
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from model import Category
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate import validate
from pipeline.evaluate.coco_metrics import MAIN_NUMBERS
from pipeline.stream.training_stream import TrainingStream, open_stream
from pipeline.track.metric_sink import MetricSink
from pipeline.train.checkpoint import save_checkpoint
from pipeline.train.loop import LoopHooks, LoopPlan, TrainingLoop
from pipeline.train.non_finite import NonFiniteLossError
from pipeline.train.norm_statistics import average_norm_statistics
from pipeline.train.reservation import RESERVATION, current_reservation
from pipeline.train.schedule import learning_rate
from pipeline.train.step_report import StepReport
from pipeline.train.trainee import Trainee, new_trainee, resumed_trainee

logger = logging.getLogger(__name__)

# A tracker that is away may cost this much per checkpoint, and no more.
TRACKER_PATIENCE_S = 5.0


@dataclass(frozen=True)
class WorkerTask:
    """What the driver tells every worker.

    Args:
        config: the job's settings, its recipe already scaled to the batch.
        categories: the classes of the data set, label i is ``categories[i - 1]``.
        train_shards: URL of the training shards.
        val_shards: URL of the validation shards; None does not validate.
        tracking_uri: where rank 0 logs.
        run_id: the MLflow run it logs to.
        nan_report: URL of the file that names the images of a step that became NaN.
    """

    config: RunConfig
    categories: tuple[Category, ...]
    train_shards: str
    val_shards: str | None
    tracking_uri: str
    run_id: str
    nan_report: str


@dataclass(frozen=True)
class WorkerOutcome:
    """How the run ended on rank 0.

    Args:
        steps: optimiser steps taken in all.
        metrics: the last losses and validation metrics; empty if there was nothing left to do.
        not_finite: the message of a run that stopped at a NaN.
    """

    steps: int
    metrics: dict[str, float] = field(default_factory=dict)
    not_finite: str | None = None


def train_worker(settings: Mapping[str, Any]) -> WorkerOutcome:
    """Ray Train's entry: train this worker's share of ``settings["task"]``, a ``WorkerTask``."""
    task: WorkerTask = settings["task"]
    context = ray.train.get_context()
    return _Worker(task, context.get_world_rank(), context.get_world_size()).train()


class _Worker:
    def __init__(self, task: WorkerTask, rank: int, world_size: int) -> None:
        self.task = task
        self.config = task.config.train
        self.rank = rank
        self.world_size = world_size
        self.device = ray.train.torch.get_device()
        self.metrics: dict[str, float] = {}
        # Workers on one machine share its cores: more threads than the share would fight.
        torch.set_num_threads(max(1, int(self.config.cpus_per_worker)))
        torch.manual_seed(task.config.seed)
        _show_progress(rank)
        self.sink: MetricSink | None = None
        self.stream: TrainingStream
        self.trainee = self._trainee()

    def train(self) -> WorkerOutcome:
        total_steps = self.config.schedule.steps
        if self.trainee.step >= total_steps:
            return WorkerOutcome(self.trainee.step)
        # Rank 0 alone speaks to MLflow; a tracker that is away never stops the training.
        if self.rank == 0:
            self.sink = MetricSink(self.task.tracking_uri, self.task.run_id)
        try:
            return self._run_loop(total_steps)
        except NonFiniteLossError as error:
            # Every worker is here. Returning, not raising: the same steps would fail again.
            if self.rank == 0:
                report = {"step": error.step, "image_ids": error.image_ids, "what": error.what}
                storage.write_json(self.task.nan_report, report)
            return WorkerOutcome(error.step, self.metrics, not_finite=str(error))
        finally:
            if self.sink is not None:
                self.sink.close()

    def _run_loop(self, total_steps: int) -> WorkerOutcome:
        config = self.config
        plan = LoopPlan(
            start_step=self.trainee.step,
            total_steps=total_steps,
            images_per_step=config.global_batch,
            accumulate=config.accumulate,
            clip_norm=config.optimizer.clip_norm,
            log_every=config.log_every,
        )
        hooks = LoopHooks(
            log=self._log,
            pauses_after=lambda step: self._validates(step) or self._checkpoints(step),
            pause=self._pause,
        )
        loop = TrainingLoop(
            model=self.trainee.distributed(),
            optimizer=self.trainee.optimizer,
            rate_at=lambda step: learning_rate(step, config.optimizer.lr, config.schedule),
            precision=self.trainee.precision,
            device=self.device,
            plan=plan,
            hooks=hooks,
        )
        shards = self.task.train_shards
        with open_stream(
            self.task.config, shards, self.rank, self.world_size, self.trainee.step, total_steps
        ) as stream:
            self.stream = stream
            loop.run(stream)
        return WorkerOutcome(total_steps, self.metrics)

    def _trainee(self) -> Trainee:
        """From the newest checkpoint, or from the beginning."""
        config, categories = self.task.config, self.task.categories
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return new_trainee(config, categories, self.device)
        with checkpoint.as_directory() as folder:
            return resumed_trainee(config, categories, self.device, Path(folder), self.rank)

    def _log(self, report: StepReport) -> None:
        self.metrics |= report.metrics()
        if self.sink is not None:
            self.sink.log(report.metrics(), report.step)
            logger.info(report.line())

    def _validates(self, step: int) -> bool:
        if self.task.val_shards is None:
            return False
        every = self.config.validate_every
        return step == self.config.schedule.steps or (every > 0 and step % every == 0)

    def _checkpoints(self, step: int) -> bool:
        return step == self.config.schedule.steps or step % self.config.checkpoint_every == 0

    def _pause(self, step: int) -> None:
        """Validate, save, and tell Ray; every worker takes part."""
        average_norm_statistics(self.trainee.detector)
        self._count_bad_rows(step)
        if self._validates(step) and self.task.val_shards is not None:
            self._validate(self.task.val_shards, step)
        metrics = {
            "step": step,
            "images_seen": step * self.config.global_batch,
            RESERVATION: current_reservation(),
            **self.metrics,
        }
        if not self._checkpoints(step):
            ray.train.report(metrics)
            return
        state = self.trainee.state_after(step)
        if self.rank != 0:
            ray.train.report(metrics)
            return
        if self.sink is not None:
            # What led to this checkpoint is never repeated: a killed worker must not lose it.
            self.sink.flush(TRACKER_PATIENCE_S)
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
            folder = Path(scratch) / "checkpoint"
            save_checkpoint(folder, self.trainee.detector, state)
            ray.train.report(
                metrics,
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"step_{step:08d}",
            )
        logger.info("step %d  checkpoint saved", step)

    def _count_bad_rows(self, step: int) -> None:
        """How many images could not be read since the start of this process, on all workers."""
        count = torch.tensor(float(len(self.stream.bad_rows)), device=self.device)
        if self.world_size > 1:
            dist.all_reduce(count)
        self.metrics["train/bad_rows"] = count.item()
        if self.sink is not None:
            self.sink.log({"train/bad_rows": count.item()}, step)

    def _validate(self, shards: str, step: int) -> None:
        batch = self.task.config.evaluate.batch
        metrics = validate(self.trainee.detector.eval(), shards, self.rank, self.world_size, batch)
        if metrics is not None and self.sink is not None:
            values = {f"val/{name}": value for name, value in metrics.values.items()}
            self.metrics |= values
            self.sink.log(values, step)
            shown = (f"{k} {v:.4f}" for k, v in values.items() if k.endswith(MAIN_NUMBERS))
            logger.info("step %d  %s", step, "  ".join(shown))


def _show_progress(rank: int) -> None:
    """Rank 0's lines go to its standard output, which Ray shows the driver; warnings of all do."""
    package = logging.getLogger("pipeline")
    package.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    if not package.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        package.addHandler(handler)
        package.propagate = False
    # Ray would print every report whole; it names this logger after its file.
    reports = Path(ray.train.__file__).parent / "v2" / "_internal" / "execution" / "context.py"
    logging.getLogger(str(reports)).setLevel(logging.WARNING)
    # A 1x1 convolution is laid out with channels last and with channels first at once, and DDP
    # names the two differently.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # Its successor is unknown to the older torch that we serve too.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
