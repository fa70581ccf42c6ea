"""The validation metrics of a training's checkpoints, linked to their logged models in MLflow."""

import math
from collections.abc import Collection, Iterable, Mapping

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric, Run

from model.weights.storage import BEST_FILE
from pipeline import storage
from pipeline.output_layout import TRAINING_FOLDER
from pipeline.track.metric_sink import METRICS_PER_REQUEST

VALIDATION_PREFIX = "val/"
"""How the names of the metrics of a training's validations begin."""
VALIDATION_DATASET = "validation"
"""The name of their dataset in the run."""


def link_metrics(
    client: MlflowClient, run: Run, output: str, models: Mapping[int, LoggedModel]
) -> None:
    """Link the validation metrics of checkpoints to those of their logged models that lack some.

    The run may have other metrics of the same step, of weights that were replaced; those of the
    weights that are there are in ``best.json``.

    Args:
        client: client of the tracking store.
        run: the run of the training.
        output: its output folder.
        models: the logged models of its checkpoints by step.
    """
    measured = {
        step: metrics
        for step, metrics in _validations(output).items()
        if step in models and _lacks_metrics(models[step], metrics)
    }
    if not measured:
        return
    rows = _run_metrics(client, run, measured)
    inputs = [each.dataset for each in run.inputs.dataset_inputs] if run.inputs else []
    dataset = next((each for each in inputs if each.name == VALIDATION_DATASET), None)
    for step, values in measured.items():
        model = models[step]
        metrics = [
            Metric(
                row.key,
                row.value,
                row.timestamp,
                step,
                model_id=model.model_id,
                dataset_name=dataset.name if dataset else None,
                dataset_digest=dataset.digest if dataset else None,
            )
            for row in _rows_of(rows[step], values, model.creation_timestamp)
            if row.key not in _keys(model)
        ]
        for first in range(0, len(metrics), METRICS_PER_REQUEST):
            chunk = metrics[first : first + METRICS_PER_REQUEST]
            client.log_batch(run.info.run_id, metrics=chunk)


def _validations(output: str) -> dict[int, dict[str, float] | None]:
    """Return the metrics of each validation of a training by its step.

    They are None where ``best.json`` has the step only, because the best checkpoint's metric was
    not measured.
    """
    url = storage.join(output, TRAINING_FOLDER, BEST_FILE)
    if not storage.exists(url):
        return {}
    try:
        content = storage.read_json(url)
        without = {int(step): None for step in content.get("without_value", ())}
        return without | {each["step"]: each["metrics"] for each in content["validations"]}
    except (storage.DamagedRecordError, LookupError, TypeError, ValueError):
        return {}  # the training that reads it says so


def _run_metrics(
    client: MlflowClient, run: Run, steps: Collection[int]
) -> dict[int, dict[str, list[Metric]]]:
    """Return the run's validation metrics of some steps: by step and key, the oldest first."""
    rows: dict[int, dict[str, list[Metric]]] = {step: {} for step in steps}
    for key in (key for key in run.data.metrics if key.startswith(VALIDATION_PREFIX)):
        for metric in client.get_metric_history(run.info.run_id, key):
            if metric.step in rows:
                rows[metric.step].setdefault(key, []).append(metric)
    for of_step in rows.values():
        for each in of_step.values():
            each.sort(key=lambda metric: metric.timestamp)
    return rows


def _rows_of(
    rows: Mapping[str, list[Metric]], measured: Mapping[str, float] | None, created_ms: int
) -> list[Metric]:
    """Return the run's metrics that a validation has measured.

    Args:
        rows: the run's metrics of that step by key.
        measured: what was measured; None if that is not known, for the latest of each key.
        created_ms: time of those that the run does not have, because the weights were copied from
            another run's; ms since the epoch.
    """
    if measured is None:
        return [each[-1] for each in rows.values()]
    found = []
    for key, value in measured.items():
        same = [each for each in rows.get(key, ()) if _is_same(each.value, value)]
        found.append(same[-1] if same else Metric(key, value, created_ms, 0))
    return found


def _is_same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _lacks_metrics(model: LoggedModel, measured: Mapping[str, float] | None) -> bool:
    keys = _keys(model)
    if measured is None:
        return not any(key.startswith(VALIDATION_PREFIX) for key in keys)
    return not keys >= measured.keys()


def _keys(model: LoggedModel) -> set[str]:
    metrics: Iterable[Metric] = model.metrics or ()
    return {metric.key for metric in metrics}
