"""Find the per-image table of a detector that was evaluated: in a folder, or in MLflow."""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.evaluate.image_table import IMAGE_TABLE, ImageTable, read_image_table
from pipeline.output_layout import EVALUATION_FOLDER
from pipeline.track.mlflow_store import TrackingError, hide_password, open_store, tracking_uri
from pipeline.track.weights_source import pin_version

logger = logging.getLogger(__name__)

PREDICTIONS_FOLDER = "predictions"
"""Folder of the prediction files, in that of the evaluation."""

EVALUATED_TAG = "evaluated_weights"
"""Tag of an MLflow run: the weights that its evaluation measured."""


class NotEvaluatedError(storage.MissingFileError):
    """There is no evaluation of the detector, or none on this data."""


@dataclass(frozen=True)
class EvaluatedModel:
    """A detector and its per-image results.

    Args:
        source: what the user named, with an alias resolved to a version.
        table: the per-image table.
        predictions_url: folder of the prediction files; None if only MLflow has the evaluation.
    """

    source: str
    table: ImageTable
    predictions_url: str | None = None


def find_evaluation(
    source: str, config: RunConfig, dataset_digest: str | None = None
) -> EvaluatedModel:
    """Find the evaluation of a detector.

    Args:
        source: a run folder, the folder of an evaluation, its ``images.parquet``, or
            ``models:/name/version`` or ``models:/name@alias``.
        config: selects the MLflow store.
        dataset_digest: of the data it must have been evaluated on; None for any.

    Raises:
        NotEvaluatedError: there is none; the message says how to evaluate.
        DamagedRecordError: the table is damaged.
        TrackingError: MLflow has no such version.
    """
    if source.startswith("models:/"):
        return _find_version(pin_version(source, config), config, dataset_digest)
    folder = source.rstrip("/")
    if folder.endswith(".parquet"):
        candidates = [folder]
    else:
        folders = (folder, storage.join(folder, EVALUATION_FOLDER))
        candidates = [storage.join(each, IMAGE_TABLE) for each in folders]
    for url in candidates:
        if storage.exists(url):
            table = read_image_table(url)
            _check_data(source, table, dataset_digest)
            predictions = storage.join(url.rpartition("/")[0], PREDICTIONS_FOLDER)
            return EvaluatedModel(source, table, predictions)
    raise NotEvaluatedError(
        f"there is no evaluation with a table of the images in {source}; run "
        f"maskrcnn-ray evaluate CONFIG output={folder}, or add --evaluate"
    )


def _check_data(source: str, table: ImageTable, dataset_digest: str | None) -> None:
    found = table.origin.dataset_digest
    if dataset_digest is not None and found != dataset_digest:
        raise NotEvaluatedError(
            f"{source} was evaluated on other data (digest {found[:12]}, {table.origin.shards}; "
            f"wanted {dataset_digest[:12]}); evaluate it on the same shards with "
            f"data.val_shards, or add --evaluate"
        )


def _find_version(source: str, config: RunConfig, dataset_digest: str | None) -> EvaluatedModel:
    name, _, number = source.removeprefix("models:/").partition("/")
    client = open_store(config)
    try:
        version = client.get_model_version(name, number)
    except MlflowException as error:
        raise TrackingError(
            f"there is no {source} in {hide_password(tracking_uri(config))} ({error.message})"
        ) from error
    others = []
    for table in _tables_of_version(client, config, source, version):
        if dataset_digest in (None, table.origin.dataset_digest):
            return EvaluatedModel(source, table)
        others.append(table)
    if others:
        _check_data(source, others[0], dataset_digest)
    raise NotEvaluatedError(
        f"MLflow has no evaluation of {source} with a table of the images; run "
        f"maskrcnn-ray evaluate CONFIG evaluate.weights={source}, or add --evaluate"
    )


def _tables_of_version(
    client: MlflowClient, config: RunConfig, source: str, version: ModelVersion
) -> Iterator[ImageTable]:
    """Yield the tables of the version's evaluations, the newest first; then that of its run."""
    sources = {source, version.tags.get("checkpoint")}
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(
        experiments, f"tags.{EVALUATED_TAG} = '{source}'", order_by=["start_time DESC"]
    )
    run_ids = [run.info.run_id for run in runs]
    for run_id in dict.fromkeys([*run_ids, *([version.run_id] if version.run_id else [])]):
        table = _logged_table(client, config, run_id)
        # A run may have evaluated other weights since.
        if table is not None and table.origin.weights in sources:
            yield table


def _logged_table(client: MlflowClient, config: RunConfig, run_id: str) -> ImageTable | None:
    """Return the table that a run's evaluation has logged, None if there is none."""
    path = f"{EVALUATION_FOLDER}/{IMAGE_TABLE}"
    try:
        if not any(each.path == path for each in client.list_artifacts(run_id, EVALUATION_FOLDER)):
            return None
        with tempfile.TemporaryDirectory(prefix="table-") as scratch:
            local = mlflow.artifacts.download_artifacts(
                run_id=run_id,
                artifact_path=path,
                dst_path=scratch,
                tracking_uri=tracking_uri(config),
            )
            return read_image_table(str(Path(local)))
    except (MlflowException, OSError) as error:
        logger.warning("the table of run %s cannot be read: %s", run_id, error)
        return None
