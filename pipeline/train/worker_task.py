"""What the driver of a training passes to its workers, and what it gets back."""

from dataclasses import dataclass, field

from model import Category
from pipeline.config import RunConfig


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
        nan_batch: URL of the file that holds these images and their targets.
        is_trial: whether a sweep decides on each report of the training.
        ended_at: steps after which an earlier job ended this training, which now goes on.
    """

    config: RunConfig
    categories: tuple[Category, ...]
    train_shards: str
    val_shards: str | None
    tracking_uri: str
    run_id: str
    nan_report: str
    nan_batch: str
    is_trial: bool = False
    ended_at: int | None = None


@dataclass(frozen=True)
class WorkerResult:
    """How the run ended on rank 0.

    Args:
        steps: optimizer steps taken in total.
        metrics: the last losses and validation metrics; no losses if no steps were left to take.
        best_step: steps before the best validation (``train.best_metric``); None without any.
        best_metrics: the metrics of that validation.
        not_finite: error message of a run that stopped at a NaN.
        stopped: why it ended before its last step; None if it took all steps.
    """

    steps: int
    metrics: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    not_finite: str | None = None
    stopped: str | None = None
