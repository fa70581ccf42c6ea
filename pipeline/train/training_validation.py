"""Validate during a training: all workers predict, rank 0 measures while the training goes on."""

import logging
import math
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass

from pipeline.config import RunConfig
from pipeline.evaluate.metrics import HEADLINE_METRICS, Metrics
from pipeline.evaluate.validation import ValidationPredictions, predict_shards
from pipeline.evaluate.validation_losses import validation_losses
from pipeline.evaluate.validation_metrics import start_measuring
from pipeline.train.compilation import uncompiled
from pipeline.train.distributed import gather_objects
from pipeline.train.metric_recorder import MetricRecorder
from pipeline.train.out_of_memory import explain_out_of_memory
from pipeline.train.training_state import TrainingState
from pipeline.train.validation_history import LOSS, read_history, write_history
from pipeline.train.worker_place import WorkerPlace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Unfinished:
    """A validation whose metrics are not recorded yet.

    Args:
        step: steps taken before it.
        metrics: the metrics to come.
        losses: the validation losses, if they are configured.
    """

    step: int
    metrics: Future[Metrics]
    losses: dict[str, float]


class TrainingValidation:
    """The validations of one training; every worker calls the same methods.

    Workers stop training for the forward passes only. The metrics are recorded when they are there,
    at the latest before the next checkpoint, with the number of steps of their validation. They are
    waited for where something depends on them: after the last step, if ``train.patience`` may end
    the training, and in the trials of a sweep. So a training takes the same decisions at the same
    steps however long its metrics take, and also if it is interrupted.

    Args:
        config: the job's settings.
        place: rank and device of this worker.
        state: what is trained.
        shards: URL of the validation shards.
        recorder: receives the metrics.
        is_trial: whether a sweep decides on each report.
    """

    def __init__(
        self,
        config: RunConfig,
        place: WorkerPlace,
        state: TrainingState,
        shards: str,
        recorder: MetricRecorder,
        is_trial: bool = False,
    ) -> None:
        self.config = config
        self.place = place
        self.state = state
        self.shards = shards
        self.recorder = recorder
        self.is_trial = is_trial
        self._unfinished: _Unfinished | None = None
        # Only rank 0 has the metrics: it keeps the history and decides for all.
        self._history = read_history(config, state.start_step) if place.rank == 0 else None

    def validate(self, step: int, is_last: bool) -> None:
        """Validate the weights after ``step`` steps; the metrics may be recorded later."""
        self.record_finished(wait=True)
        predictions, losses = self._predict()
        if predictions is not None and self._history is not None:
            may_stop = self._history.may_stop_next(self.config.train.patience)
            is_needed_now = is_last or may_stop or self.is_trial
            metrics = start_measuring(predictions, is_needed_now)
            self._unfinished = _Unfinished(step, metrics, losses)
            self.record_finished(wait=is_needed_now)

    def record_finished(self, wait: bool) -> None:
        """Record the metrics of the last validation if they are there, or wait for them."""
        unfinished = self._unfinished
        if unfinished is None or self._history is None:
            return
        if not (wait or unfinished.metrics.done()):
            return
        self._unfinished = None
        step = unfinished.step
        values = {**unfinished.metrics.result().values, **unfinished.losses}
        named = {f"val/{name}": value for name, value in values.items()}
        self.recorder.record(named, step)
        is_shown = (LOSS, *HEADLINE_METRICS)
        shown = (f"{k} {v:.4f}" for k, v in named.items() if k.endswith(is_shown))
        logger.info("step %d  %s", step, "  ".join(shown))
        self._history = self._history.add(step, self._best_value(values), named)
        write_history(self.config, self._history)

    def reason_to_stop(self) -> str | None:
        """Return why the training should end; every worker must call it, and gets the same."""
        history = self._history
        reason = None if history is None else history.reason_to_stop(self.config.train.patience)
        return gather_objects(reason)[0]

    def has_validated(self, step: int) -> bool:
        """Return whether there are metrics of a step; every worker must call it."""
        return gather_objects(self._history is not None and self._history.has(step))[0]

    @property
    def best(self) -> tuple[int, dict[str, float]] | None:
        """Step and metrics of the best validation; None without any, and on all ranks but 0."""
        best = None if self._history is None else self._history.best
        return None if best is None else (best.step, dict(best.metrics))

    def metrics_after(self, step: int) -> dict[str, float]:
        """Return the metrics of the validation after ``step`` steps; empty on all ranks but 0."""
        validations = () if self._history is None else self._history.validations
        return {k: v for each in validations if each.step == step for k, v in each.metrics.items()}

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

    def _predict(self) -> tuple[ValidationPredictions | None, dict[str, float]]:
        """Return the predictions, on rank 0, and the losses if they are configured."""
        settings, place = self.config.evaluate, self.place
        remedy = f"lower evaluate.batch (now {settings.batch})"
        with (
            explain_out_of_memory(place.device, remedy),
            uncompiled() if self.config.train.compile else nullcontext(),
        ):
            detector = self.state.inference_detector.eval()
            predictions = predict_shards(
                detector,
                self.shards,
                place.rank,
                place.world_size,
                settings.batch,
                settings.precision,
                settings.max_detections,
            )
            losses = {}
            if self.config.train.validation_loss:
                losses = validation_losses(
                    detector, self.config, self.shards, place.rank, place.world_size
                )
        return predictions, losses
