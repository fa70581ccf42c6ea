"""Resolve weights from any source (registry, run, checkpoint, file, web) to a local path."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.download import fetch_weights
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import TRAINING_FOLDER
from pipeline.track.mlflow_run import TrackingError, hide_password, tracking_uri


def newest_checkpoint(config: RunConfig) -> str:
    """Return the URL of the newest complete checkpoint of the output's training.

    Raises:
        FileNotFoundError: there is no complete checkpoint.
    """
    training = storage.join(config.output, TRAINING_FOLDER)
    files = set(storage.list_files(training, (WEIGHTS_FILE, CONFIG_FILE)))
    folders = {file.rpartition("/")[0] for file in files if file.endswith(WEIGHTS_FILE)}
    complete = [folder for folder in folders if storage.join(folder, CONFIG_FILE) in files]
    if not complete:
        raise FileNotFoundError(
            f"no checkpoint below {training}; train first, or set the weights to use"
        )
    # Folder names end in the step, with leading zeros.
    return max(complete, key=lambda folder: folder.rpartition("/")[2])


def pin_version(source: str, config: RunConfig) -> str:
    """Resolve ``models:/name@alias`` to ``models:/name/version``; return other sources unchanged.

    Raises:
        TrackingError: the registry has no such model or alias.
    """
    if not (source.startswith("models:/") and "@" in source):
        return source
    name, alias = source.removeprefix("models:/").split("@", 1)
    uri = tracking_uri(config)
    try:
        version = _client(uri).get_model_version_by_alias(name, alias).version
    except MlflowException as error:
        raise TrackingError(
            f"there is no model {name}@{alias} in {hide_password(uri)} ({error.message}). "
            "Register one first with workflows/register.py."
        ) from error
    return f"models:/{name}/{version}"


@contextmanager
def resolve_weights(source: str, config: RunConfig) -> Iterator[Path]:
    """Provide weights as a local path for a ``with`` block.

    Args:
        source: ``models:/name@alias``, ``models:/name/version``, ``runs:/id/path``, the URL of a
            checkpoint folder or of a weights file, or the ``https://`` address of a weights file.
        config: selects the MLflow store.

    Yields:
        A folder with model.safetensors and model.json, or the weights file.

    Raises:
        TrackingError: the MLflow store has no such model or run.
        FileNotFoundError: the folder does not hold model.safetensors and model.json.
        WeightsError: the download failed, or it has another digest than requested.
    """
    if source.startswith(("https://", "http://")):
        yield fetch_weights(source)
        return
    if not source.startswith(("models:/", "runs:/")):
        with storage.fetch(source) as path:
            yield _model_folder(path, source) if path.is_dir() else path
        return
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        yield _model_folder(_download(source, config, Path(folder)), source)


def _download(source: str, config: RunConfig, folder: Path) -> Path:
    uri = tracking_uri(config)
    try:
        artifact_uri = pin_version(source, config)
        if artifact_uri.startswith("models:/"):
            name, version = artifact_uri.removeprefix("models:/").split("/", 1)
            # Resolved by our client: MLflow would resolve models:/ with its global settings.
            artifact_uri = _client(uri).get_model_version_download_uri(name, version)
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=artifact_uri, dst_path=str(folder), tracking_uri=uri
            )
        )
    except (MlflowException, ValueError) as error:
        raise TrackingError(f"there is no {source} in {hide_password(uri)}: {error}") from error


def _model_folder(folder: Path, source: str) -> Path:
    """Return the folder with the model's files: ``folder`` or one below it."""
    for candidate in (folder, *sorted(p.parent for p in folder.rglob(WEIGHTS_FILE))):
        if (candidate / WEIGHTS_FILE).is_file() and (candidate / CONFIG_FILE).is_file():
            return candidate
    raise FileNotFoundError(
        f"{source} does not hold {WEIGHTS_FILE} and {CONFIG_FILE}. Is it a checkpoint folder?"
    )


def _client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri, registry_uri=uri)
