"""Registered models: what a version holds and where it came from."""

import hashlib
import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from pipeline.config import RunConfig, config_digest
from pipeline.ingest.splits import split_shards_url
from pipeline.shards.manifest import read_manifest
from pipeline.track.mlflow_run import code_commit, tracking_uri
from pipeline.track.model_signature import SIGNATURE
from pipeline.track.promotion import METRIC_TAG, RegisteredVersion, promote
from pipeline.track.weights_source import SETTINGS_FILE, WEIGHTS_FILE, resolve_weights

SERVED_MODEL = Path(__file__).with_name("served_model.py")
REQUIREMENTS = ("torch", "torchvision", "numpy", "pandas", "maskrcnn-ray")


def register_model(
    config: RunConfig,
    checkpoint_url: str,
    metrics: Mapping[str, float],
    run_id: str,
    dataset_digest: str,
) -> RegisteredVersion:
    """Register a checkpoint, and make it the champion if it beats the champion on the same data.

    The same weights measured on the same data are registered once, however often this is called.
    Two jobs that promote at the same moment are not ordered: the later call wins.

    Args:
        config: names the model and the metric that decides.
        checkpoint_url: folder with model.safetensors and model.json.
        metrics: what an evaluation found, ``{kind}/{number}`` to value.
        run_id: MLflow run that produced the checkpoint.
        dataset_digest: digest of the data set the metrics were measured on.

    Raises:
        ValueError: the deciding metric is not among the metrics.
    """
    if config.track.champion_metric not in metrics:
        raise ValueError(
            f"track.champion_metric {config.track.champion_metric} was not measured; "
            f"there are {', '.join(sorted(metrics))}"
        )
    uri = tracking_uri(config)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    with resolve_weights(checkpoint_url, config) as folder:
        if not folder.is_dir():
            raise ValueError(f"{checkpoint_url} is a bare weights file; register its folder")
        tags = _provenance(client, config, folder, run_id)
        tags |= {"dataset_digest": dataset_digest, "checkpoint": checkpoint_url}
        tags |= {f"{METRIC_TAG}{key}": repr(float(value)) for key, value in metrics.items()}
        version = _find_version(client, config.track.model_name, tags)
        if version is None:
            model = _log_model(client, config.track.model_name, folder, run_id)
            _log_model_metrics(client, run_id, model.model_id, metrics, dataset_digest)
            version = _create_version(client, config.track.model_name, model, run_id, tags)
    return promote(client, config.track.model_name, version, config.track.champion_metric)


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _provenance(
    client: MlflowClient, config: RunConfig, folder: Path, run_id: str
) -> dict[str, str]:
    # The run knows the code and settings of the training; this process those of the registration.
    of_run = client.get_run(run_id).data.tags
    return {
        "weights_sha256": file_sha256(folder / WEIGHTS_FILE),
        "settings_sha256": file_sha256(folder / SETTINGS_FILE),
        "config_digest": of_run.get("config_digest", config_digest(config)),
        "code_commit": of_run.get("code_commit", code_commit()),
        "train_digest": _train_digest(config),
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
    same = ("weights_sha256", "settings_sha256", "dataset_digest")
    for version in client.search_model_versions(f"name='{name}'"):
        if all(version.tags.get(key) == tags[key] for key in same):
            return version
    return None


def _log_model(client: MlflowClient, name: str, folder: Path, run_id: str) -> Any:
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(
        experiment_id, name=name, source_run_id=run_id, model_type="detector"
    )
    try:
        with tempfile.TemporaryDirectory(prefix="served-") as scratch:
            path = Path(scratch) / "model"
            detector = Path(scratch) / "detector"
            detector.mkdir()
            for file in (WEIGHTS_FILE, SETTINGS_FILE):  # without the optimiser's state beside them
                shutil.copyfile(folder / file, detector / file)
            with warnings.catch_warnings():
                # The signature is written out; an example would only be a second copy of it.
                warnings.filterwarnings("ignore", message=".*input example was not provided")
                mlflow.pyfunc.save_model(
                    path=str(path),
                    python_model=str(SERVED_MODEL),
                    artifacts={"detector": str(detector)},
                    signature=SIGNATURE,
                    pip_requirements=[_pinned(name) for name in REQUIREMENTS],
                    mlflow_model=Model(run_id=run_id, model_id=logged.model_id),
                )
            # What a fresh process will do: a version that does not load is not registered.
            mlflow.pyfunc.load_model(str(path))
            client.log_model_artifacts(logged.model_id, str(path))
    except BaseException:
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    return client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)


def _pinned(name: str) -> str:
    try:
        return f"{name}=={installed_version(name)}"
    except PackageNotFoundError:  # run from a source folder that is not installed
        return name


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
                dataset_digest=digest[:36],  # the column's width
                run_id=run_id,
            )
            for key, value in metrics.items()
        ],
    )


def _create_version(
    client: MlflowClient, name: str, model: Any, run_id: str, tags: dict[str, str]
) -> ModelVersion:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name, source=model.artifact_location, run_id=run_id, tags=tags, model_id=model.model_id
    )
