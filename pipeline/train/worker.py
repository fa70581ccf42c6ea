"""One Ray Train worker: run the training loop with its rank, device and share of the data."""

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
from ops_cuda import backend
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.metrics import HEADLINE_METRICS
from pipeline.evaluate.validation import validate
from pipeline.operator_backend import warn_if_not_compiled
from pipeline.stream.training_stream import TrainingStream, open_stream
from pipeline.track.metric_sink import MetricSink
from pipeline.train.checkpoint import save_checkpoint
from pipeline.train.distributed import average_norm_statistics
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
        _configure_logging(rank)
        if rank == 0:
            logger.info("training on %s, operators %s", self.device, backend())
            warn_if_not_compiled(self.device)
        self.sink: MetricSink | None = None
        self.stream: TrainingStream
        self.state = self._build_state()

    def _build_state(self) -> TrainingState:
        """Resume from the newest checkpoint, or start a new training."""
        config, categories = self.task.config, self.task.categories
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return new_training_state(config, categories, self.device)
        with checkpoint.as_directory() as folder:
            return resume_training_state(config, categories, self.device, Path(folder), self.rank)

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
            return WorkerResult(error.step, self.metrics, not_finite=str(error))
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
        """Validate, save and report to Ray, as due; every worker takes part."""
        average_norm_statistics(self.state.detector)
        self._count_bad_rows(step)
        if self._should_validate(step) and self.task.val_shards is not None:
            self._validate(self.task.val_shards, step)
        metrics = {
            "step": step,
            "images_seen": step * self.config.global_batch,
            PLACEMENT_GROUP: current_placement_group_id(),
            **self.metrics,
        }
        if not self._should_checkpoint(step):
            ray.train.report(metrics)
            return
        saved = self.state.state_to_save(step)
        if self.rank != 0:
            ray.train.report(metrics)
            return
        if self.sink is not None:
            # Steps before a checkpoint are never repeated: deliver their metrics now, in case this
            # worker is killed later.
            self.sink.flush(CHECKPOINT_FLUSH_TIMEOUT_S)
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as scratch:
            folder = Path(scratch) / "checkpoint"
            save_checkpoint(folder, self.state.detector, saved)
            ray.train.report(
                metrics,
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_dir_name=f"step_{step:08d}",
            )
        logger.info("step %d  checkpoint saved", step)

    def _count_bad_rows(self, step: int) -> None:
        """Record how many images all workers could not read since these processes started."""
        count = torch.tensor(float(len(self.stream.bad_rows)), device=self.device)
        if self.world_size > 1:
            dist.all_reduce(count)
        self.metrics["train/bad_rows"] = count.item()
        if self.sink is not None:
            self.sink.log({"train/bad_rows": count.item()}, step)

    def _validate(self, shards: str, step: int) -> None:
        batch = self.task.config.evaluate.batch
        with explain_out_of_memory(self.device, f"lower evaluate.batch (now {batch})"):
            detector = self.state.detector.eval()
            metrics = validate(detector, shards, self.rank, self.world_size, batch)
        if metrics is not None and self.sink is not None:
            values = {f"val/{name}": value for name, value in metrics.values.items()}
            self.metrics |= values
            self.sink.log(values, step)
            shown = (f"{k} {v:.4f}" for k, v in values.items() if k.endswith(HEADLINE_METRICS))
            logger.info("step %d  %s", step, "  ".join(shown))


def _configure_logging(rank: int) -> None:
    """Print rank 0's log lines and every rank's warnings to stdout, which Ray shows the driver.

    Only rank 0 prints warnings about the weights.
    """
    package = logging.getLogger("pipeline")
    package.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    if not package.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        package.addHandler(handler)
        package.propagate = False
    # Every rank loads the same weights and would repeat the same warnings.
    logging.getLogger("model.weights").setLevel(logging.WARNING if rank == 0 else logging.ERROR)
    # Ray would print every report in full; it names this logger after its file.
    reports = Path(ray.train.__file__).parent / "v2" / "_internal" / "execution" / "context.py"
    logging.getLogger(str(reports)).setLevel(logging.WARNING)
    # The weight of a 1x1 convolution is both channels-last and contiguous, and DDP computes
    # different strides for the two.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # Its replacement does not exist in the older torch versions that we support.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
