"""Register model versions, with their provenance and metrics."""

import time
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import file_sha256
from pipeline.config import RunConfig, config_digest
from pipeline.output_layout import evaluated_shards_url, split_shards_url
from pipeline.shards.manifest import read_manifest
from pipeline.track.logged_model import log_model
from pipeline.track.mlflow_run import MLFLOW_DIGEST_LENGTH, code_commit
from pipeline.track.mlflow_store import TrackingError, open_store
from pipeline.track.promotion import Compare, Rule, promote
from pipeline.track.promotion_record import METRIC_TAG, RegisteredVersion
from pipeline.track.weights_source import resolve_weights


def register_model(
    config: RunConfig,
    checkpoint_url: str,
    metrics: Mapping[str, float],
    run_id: str,
    dataset_digest: str,
    compare: Compare | None = None,
) -> RegisteredVersion:
    """Register a checkpoint, and make it the champion if it beats the champion on the same data.

    The same weights measured on the same data are registered only once. If several jobs register
    at the same moment, the best version is the champion at the end (``promotion.py``).

    Args:
        config: the job's settings; ``track`` has the model's name and the metric that decides.
        checkpoint_url: folder with model.safetensors and model.json.
        metrics: metrics of an evaluation, ``{kind}/{metric}`` -> value.
        run_id: MLflow run that produced the checkpoint.
        dataset_digest: digest of the dataset on which the metrics were measured.
        compare: compares the version with a champion by the further rules of `track.promotion`.

    Raises:
        TrackingError: the metric that decides is not among the metrics, or the checkpoint is a bare
            weights file.
        WeightsError: a file of the checkpoint is damaged.
    """
    if config.track.champion_metric not in metrics:
        raise TrackingError(
            f"track.champion_metric {config.track.champion_metric} was not measured; "
            f"the evaluation has {', '.join(sorted(metrics))}"
        )
    client = open_store(config)
    with resolve_weights(checkpoint_url, config) as folder:
        if not folder.is_dir():
            raise TrackingError(f"{checkpoint_url} is a bare weights file; register its folder")
        tags = _provenance(client, config, folder, run_id)
        tags |= {"dataset_digest": dataset_digest, "checkpoint": checkpoint_url}
        tags |= {f"{METRIC_TAG}{key}": repr(float(value)) for key, value in metrics.items()}
        version = _find_version(client, config.track.model_name, tags)
        if version is None:
            model = log_model(client, config.track.model_name, folder, run_id)
            _log_model_metrics(client, run_id, model.model_id, metrics, dataset_digest)
            version = _create_version(client, config.track.model_name, model, run_id, tags)
    track = config.track
    rule = Rule(track.champion_metric, track.champion_minimum, track.promotion.margin)
    return promote(client, track.model_name, version, rule, compare)


def _provenance(
    client: MlflowClient, config: RunConfig, folder: Path, run_id: str
) -> dict[str, str]:
    # The run recorded code and settings of the training; this process has those of registration.
    run_tags = client.get_run(run_id).data.tags
    return {
        "weights_sha256": file_sha256(folder / WEIGHTS_FILE),
        "settings_sha256": file_sha256(folder / CONFIG_FILE),
        "config_digest": run_tags.get("config_digest", config_digest(config)),
        "code_commit": run_tags.get("code_commit", code_commit()),
        "train_digest": _train_digest(config),
        "train_shards": split_shards_url(config, "train"),
        "val_shards": evaluated_shards_url(config),  # what it was measured on
        "evaluated_split": config.evaluate.split,
        "initial_weights": config.train.weights or "none",
        "initial_weights_sha256": _initial_weights_sha256(config),
    }


def _train_digest(config: RunConfig) -> str:
    try:
        return read_manifest(split_shards_url(config, "train")).digest
    except FileNotFoundError:  # trained elsewhere
        return "unknown"


def _initial_weights_sha256(config: RunConfig) -> str:
    if config.train.weights is None:
        return "none"
    with resolve_weights(config.train.weights, config) as path:
        return file_sha256(path / WEIGHTS_FILE if path.is_dir() else path)


def _find_version(client: MlflowClient, name: str, tags: Mapping[str, str]) -> ModelVersion | None:
    """Return the version with the same weights and settings, measured on the same dataset."""
    same = ("weights_sha256", "settings_sha256", "dataset_digest")
    for version in client.search_model_versions(f"name='{name}'"):
        if all(version.tags.get(key) == tags[key] for key in same):
            return version
    return None


def _log_model_metrics(
    client: MlflowClient, run_id: str, model_id: str, metrics: Mapping[str, float], digest: str
) -> None:
    now_ms = int(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[
            Metric(
                key,
                float(value),
                now_ms,
                0,
                model_id=model_id,
                dataset_name="evaluation",
                dataset_digest=digest[:MLFLOW_DIGEST_LENGTH],
                run_id=run_id,
            )
            for key, value in metrics.items()
        ],
    )


def _create_version(
    client: MlflowClient, name: str, model: LoggedModel, run_id: str, tags: dict[str, str]
) -> ModelVersion:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name, source=model.artifact_location, run_id=run_id, tags=tags, model_id=model.model_id
    )
