"""The validations of a training: which checkpoint is the best, and when to stop waiting for more.

The history is kept in ``best.json``, so that a resumed training continues to count.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from model.config.settings import ConfigError
from model.weights.storage import BEST_FILE
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.metrics import measured_metrics
from pipeline.train.checkpoint_store import checkpoint_name, training_url

logger = logging.getLogger(__name__)

LOSS = "loss"


@dataclass(frozen=True)
class Validation:
    """A validation after some steps.

    Args:
        step: number of steps.
        value: value of the metric that decides which checkpoint is the best.
        metrics: all metrics of this validation (``val/...``).
    """

    step: int
    value: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidationHistory:
    """All validations so far, in order.

    Args:
        metric: name of the metric, such as ``segm/AP``; of ``loss`` lower values are better.
        validations: where the metric was measured: not those without an object to measure.
        without_value: steps of the other validations.
    """

    metric: str
    validations: tuple[Validation, ...] = ()
    without_value: tuple[int, ...] = ()

    @property
    def best(self) -> Validation | None:
        """The best validation, the last of equally good ones; None without any."""
        sign = -1 if self.metric == LOSS else 1
        return max(self.validations, key=lambda each: (sign * each.value, each.step), default=None)

    @property
    def since_improved(self) -> int:
        """Number of validations after the first of the equally good best ones."""
        best = self.best
        if best is None:
            return 0
        first = min(each.step for each in self.validations if each.value == best.value)
        return sum(each.step > first for each in self.validations)

    def add(
        self, step: int, value: float, metrics: Mapping[str, float] | None = None
    ) -> "ValidationHistory":
        """Return the history with one more validation; one of the same step is replaced.

        A value that says nothing (NaN, or pycocotools' -1 where there is no object) is left out.
        """
        kept = self.until(step - 1)
        if math.isnan(value) or value == -1:
            return replace(kept, without_value=(*kept.without_value, step))
        added = Validation(step, value, dict(metrics or {}))
        return replace(kept, validations=(*kept.validations, added))

    def has(self, step: int) -> bool:
        """Return whether the training was validated after ``step`` steps."""
        return step in self.without_value or any(each.step == step for each in self.validations)

    def may_stop_next(self, patience: int) -> bool:
        """Return whether the next validation may end the training."""
        return patience > 0 and self.since_improved + 1 >= patience

    def reason_to_stop(self, patience: int) -> str | None:
        """Return why training should end; None if it should go on.

        Args:
            patience: validations without a better value to wait for; 0 never stops.
        """
        best = self.best
        if not patience or best is None or self.since_improved < patience:
            return None
        return (
            f"{self.metric} has not improved on {best.value:.4f} in {self.since_improved} "
            "validations"
        )

    def until(self, step: int) -> "ValidationHistory":
        """Return the history up to a step, from which the training is resumed."""
        return ValidationHistory(
            self.metric,
            tuple(each for each in self.validations if each.step <= step),
            tuple(each for each in self.without_value if each <= step),
        )


def best_metric(config: RunConfig) -> str:
    """Return the name of the metric that decides which checkpoint is the best.

    Raises:
        ConfigError: ``train.best_metric`` is not measured.
    """
    names = measured_metrics(config.model)
    stated = config.train.best_metric
    if stated is None:
        champion = config.track.champion_metric
        return champion if champion in names else names[0]
    metric = stated.removeprefix("val/")
    if metric == LOSS and not config.train.validation_loss:
        raise ConfigError(["train.best_metric: loss needs train.validation_loss=true"])
    if metric != LOSS and metric not in names:
        raise ConfigError(
            [f"train.best_metric: {stated} is not measured for this detector; use {names[0]}"]
        )
    return metric


def read_history(config: RunConfig, until_step: int) -> ValidationHistory:
    """Read the history of the output's training up to the step from which it is resumed.

    It is empty if there is none, or one of another metric.
    """
    empty = ValidationHistory(best_metric(config))
    url = _history_url(config.output)
    if not storage.exists(url):
        return empty
    try:
        content = storage.read_json(url)
        if content["metric"] != empty.metric:
            return empty
        validations = tuple(Validation(**each) for each in content["validations"])
        without_value = tuple(content.get("without_value", ()))
    except (storage.StorageError, LookupError, TypeError) as error:
        logger.warning("%s is damaged (%s); the best checkpoint is chosen anew", url, error)
        return empty
    return ValidationHistory(empty.metric, validations, without_value).until(until_step)


def write_history(config: RunConfig, history: ValidationHistory) -> None:
    """Write the history, and which checkpoint others use; see ``train.final_checkpoint``."""
    best = history.best if config.train.final_checkpoint == "best" else None
    document = {
        "checkpoint": None if best is None else checkpoint_name(best.step),
        "metric": history.metric,
        "validations": [asdict(each) for each in history.validations],
        "without_value": list(history.without_value),
    }
    storage.write_json(_history_url(config.output), document)


def history_of_step(output: str, step: int) -> dict[str, Any] | None:
    """Return the content of ``best.json`` for a copy of one checkpoint of another training.

    Args:
        output: output folder of the training to copy from.
        step: steps of the checkpoint.

    Returns:
        The validation of that step; None if it is not known.
    """
    url = _history_url(output)
    if not storage.exists(url):
        return None
    try:
        content = storage.read_json(url)
        validations = [each for each in content["validations"] if each["step"] == step]
        without_value = [each for each in content.get("without_value", ()) if each == step]
        is_named = content["checkpoint"] is not None and bool(validations)
        metric = content["metric"]
    except (storage.StorageError, LookupError, TypeError) as error:
        logger.warning("%s is damaged (%s); the copied checkpoint is validated anew", url, error)
        return None
    if not validations and not without_value:
        return None
    return {
        "checkpoint": checkpoint_name(step) if is_named else None,
        "metric": metric,
        "validations": validations,
        "without_value": without_value,
    }


def _history_url(output: str) -> str:
    return storage.join(training_url(output), BEST_FILE)
