"""Weights by any name - registry, run, checkpoint folder, file - as a path on this machine."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from model.weights.storage.download import local_path as downloaded_path
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.track.mlflow_run import TrackingError, hide_password, tracking_uri

WEIGHTS_FILE = "model.safetensors"
SETTINGS_FILE = "model.json"


def newest_checkpoint(config: RunConfig) -> str:
    """URL of the newest complete checkpoint of the output's training.

    Raises:
        FileNotFoundError: nothing has been trained there.
    """
    training = storage.join(config.output, "train")
    files = set(storage.list_files(training, (WEIGHTS_FILE, SETTINGS_FILE)))
    folders = {file.rpartition("/")[0] for file in files if file.endswith(WEIGHTS_FILE)}
    whole = [one for one in folders if storage.join(one, SETTINGS_FILE) in files]
    if not whole:
        raise FileNotFoundError(
            f"no checkpoint below {training}; train first, or name the weights to use"
        )
    # Their names end in the step, with leading zeros.
    return max(whole, key=lambda folder: folder.rpartition("/")[2])


def pin_version(source: str, config: RunConfig) -> str:
    """``models:/name@alias`` as ``models:/name/version``; every other source as it is.

    Raises:
        TrackingError: no such model or alias.
    """
    if not (source.startswith("models:/") and "@" in source):
        return source
    name, alias = source.removeprefix("models:/").split("@", 1)
    uri = tracking_uri(config)
    try:
        version = _client(uri).get_model_version_by_alias(name, alias).version
    except MlflowException as error:
        raise TrackingError(
            f"no model {name}@{alias} in {hide_password(uri)} ({error.message}). "
            "Register one first: workflows/register.py."
        ) from error
    return f"models:/{name}/{version}"


@contextmanager
def resolve_weights(source: str, config: RunConfig) -> Iterator[Path]:
    """Bring weights to this machine for the length of the block.

    Args:
        source: ``models:/name@alias``, ``models:/name/version``, ``runs:/id/path``, the URL of a
            checkpoint folder or of a weights file, or ``https://`` and a weights file.
        config: says which MLflow is meant.

    Yields:
        A folder with model.safetensors and model.json, or the weights file.

    Raises:
        TrackingError: the registry has no such model.
        FileNotFoundError: the folder holds no model.safetensors with its model.json.
        WeightsError: the download failed, or its digest is another.
    """
    if source.startswith(("https://", "http://")):
        yield downloaded_path(source)
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
        address = pin_version(source, config)
        if address.startswith("models:/"):
            name, version = address.removeprefix("models:/").split("/", 1)
            # Asked of this tracker: MLflow resolves models:/ by its global settings.
            address = _client(uri).get_model_version_download_uri(name, version)
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=address, dst_path=str(folder), tracking_uri=uri
            )
        )
    except (MlflowException, ValueError) as error:
        raise TrackingError(f"no {source} in {hide_password(uri)}: {error}") from error


def _model_folder(folder: Path, source: str) -> Path:
    for candidate in (folder, *sorted(p.parent for p in folder.rglob(WEIGHTS_FILE))):
        if (candidate / WEIGHTS_FILE).is_file() and (candidate / SETTINGS_FILE).is_file():
            return candidate
    raise FileNotFoundError(
        f"{source} holds no {WEIGHTS_FILE} with its {SETTINGS_FILE}. A folder above checkpoints?"
    )


def _client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri, registry_uri=uri)
