"""Record an evaluation in MLflow: metrics linked to the data, tables, plots and images."""

import logging
import re
import time
from collections.abc import Mapping, Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from model.weights.storage.model_folder import checkpoint_step
from pipeline import storage
from pipeline.evaluate.evaluated_model import EVALUATED_TAG
from pipeline.evaluate.metrics import ClassMetrics
from pipeline.evaluate.report import EvaluationReport
from pipeline.output_layout import evaluation_path
from pipeline.shards.manifest import Manifest
from pipeline.track.checkpoint_models import STEP_TAG, URL_TAG, checkpoint_models
from pipeline.track.dataset_inputs import dataset_digest, log_dataset
from pipeline.track.metric_sink import METRICS_PER_REQUEST
from pipeline.track.mlflow_run import TrackedRun

logger = logging.getLogger(__name__)

MAX_RECORDED_CLASSES = 200
"""More classes would bury the other metrics; they are in the table of the classes."""

_NOT_ALLOWED = re.compile(r"[^\w \-.]")


def record_evaluation(
    run: TrackedRun,
    report: EvaluationReport,
    manifest: Manifest,
    extra: Mapping[str, float],
    folder: str,
    files: Sequence[str],
) -> None:
    """Record metrics, the dataset and the files of an evaluation in the MLflow run.

    Names of metrics begin with the name of the split, except for val.

    Args:
        run: the run.
        report: what was evaluated, and its metrics.
        manifest: of the dataset.
        extra: further metrics.
        folder: folder of the evaluation.
        files: paths of the files to upload, relative to ``folder``.
    """
    client = MlflowClient(tracking_uri=run.uri)
    split, is_val = report.split, report.split == "val"
    dataset = "validation" if is_val else split
    log_dataset(client, run.run_id, dataset, report.shards, manifest)
    # At the step of the checkpoint, so that it stands beside the validations during training.
    step = checkpoint_step(report.weights.rstrip("/").rpartition("/")[2]) or 0
    model_id = _logged_model(client, run.run_id, report.weights, step)
    now_ms = int(time.time() * 1000)
    values = {**report.metrics.values, **extra, **class_metrics(report.metrics.per_class)}
    metrics = [
        Metric(
            key if is_val else f"{split}/{key}",
            value,
            now_ms,
            step,
            model_id=model_id,
            dataset_name=dataset,
            dataset_digest=dataset_digest(manifest.digest),
        )
        for key, value in values.items()
        if value != -1  # nothing to measure: not a point in a chart
    ]
    for first in range(0, len(metrics), METRICS_PER_REQUEST):
        client.log_batch(run.run_id, metrics=metrics[first : first + METRICS_PER_REQUEST])
    client.set_tag(run.run_id, EVALUATED_TAG, report.weights)
    for name in files:
        with storage.fetch(storage.join(folder, name)) as local:
            run.artifacts.file(local, f"{evaluation_path(split)}/{name}".rpartition("/")[0])


def _logged_model(client: MlflowClient, run_id: str, weights: str, step: int) -> str | None:
    """Return the id of the logged model of a checkpoint in its training's run, if there is one."""
    try:
        models = checkpoint_models(client, client.get_run(run_id))
    except MlflowException as error:  # a server older than MLflow 3
        logger.warning("the evaluation is not linked to the model of its checkpoint: %s", error)
        return None
    of_checkpoint = (
        m for m in models if (m.tags[URL_TAG], m.tags[STEP_TAG]) == (weights, f"{step}")
    )
    return next((str(model.model_id) for model in of_checkpoint), None)


def class_metrics(per_class: Sequence[ClassMetrics]) -> dict[str, float]:
    """Return ``{kind}/AP/{class}`` of each class with objects; none if there are too many.

    Characters that MLflow does not allow in a name become ``_``; classes that are then equal are
    told apart by their id.
    """
    present = [row for row in per_class if row.objects]
    if len(present) > MAX_RECORDED_CLASSES:
        return {}
    values: dict[str, float] = {}
    for row in present:
        for metric, value in row.values.items():
            if metric.endswith("/AP") and value >= 0:
                key = f"{metric}/{_NOT_ALLOWED.sub('_', row.name)[:150]}"
                values[f"{key} {row.category_id}" if key in values else key] = value
    return values
