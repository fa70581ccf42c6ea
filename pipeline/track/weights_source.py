"""Resolve weights from any source (registry, run, checkpoint, file, web) to a local path."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from model.weights.published.fetch import fetch_published
from model.weights.published.table import WORDS
from model.weights.storage import CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import verify_checksums
from model.weights.storage.download import fetch_weights
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.storage.scratch import scratch_folder
from pipeline.track.mlflow_store import TrackingError, hide_password, open_store, tracking_uri
from pipeline.track.model_contents import check_contents, remove_bytecode
from pipeline.track.stored_weights import MODEL_FILES, stored_weights


def pin_version(source: str, config: RunConfig) -> str:
    """Resolve ``models:/name@alias`` to ``models:/name/version``; return other sources unchanged.

    Raises:
        TrackingError: the registry has no such model or alias.
    """
    if not (source.startswith("models:/") and "@" in source):
        return source
    name, alias = source.removeprefix("models:/").split("@", 1)
    try:
        version = open_store(config).get_model_version_by_alias(name, alias).version
    except MlflowException as error:
        raise TrackingError(
            f"there is no model {name}@{alias} in {hide_password(tracking_uri(config))} "
            f"({error.message}). Register one first with maskrcnn-ray register."
        ) from error
    return f"models:/{name}/{version}"


@contextmanager
def resolve_weights(source: str, config: RunConfig) -> Iterator[Path]:
    """Provide weights as a local path for a ``with`` block, checked against their checksums.

    Args:
        source: ``models:/name@alias``, ``models:/name/version``, ``runs:/id/path``, the URL of a
            model's folder, of a run's folder (for its best or newest checkpoint) or of a weights
            file, the ``https://`` address of a weights file, or a word (``imagenet``, ``coco``)
            for published weights of the config's detector.
        config: selects the MLflow store, and the detector of published weights.

    Yields:
        A folder with model.safetensors and model.json, or the weights file.

    Raises:
        TrackingError: the MLflow store has no such model or run.
        MissingFileError: nothing is there, or a folder without model.safetensors and model.json.
        WeightsError: the download failed, it has another digest than requested, or a file is
            damaged.
    """
    if source in WORDS:
        yield Path(fetch_published(source, config.model))
    elif source.startswith(("https://", "http://")):
        yield fetch_weights(source)
    elif source.startswith(("models:/", "runs:/")):
        with scratch_folder("weights") as scratch:
            downloaded = _download(source, config, scratch)
            if source.startswith("models:/"):
                remove_bytecode(downloaded)
                check_contents(downloaded, source)
            folder = _downloaded_model(downloaded, source)
            verify_checksums(folder, MODEL_FILES, shown=source)
            yield folder
    else:
        with stored_weights(source) as path:
            yield path


def _download(source: str, config: RunConfig, folder: Path) -> Path:
    uri = tracking_uri(config)
    try:
        artifact_uri = pin_version(source, config)
        client = open_store(config)
        if artifact_uri.startswith("models:/"):
            name, version = artifact_uri.removeprefix("models:/").split("/", 1)
            # Resolved by our client: MLflow would resolve models:/ with its global settings.
            artifact_uri = client.get_model_version_download_uri(name, version)
        return Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=artifact_uri, dst_path=str(folder), tracking_uri=uri
            )
        )
    except (MlflowException, ValueError) as error:
        raise TrackingError(f"there is no {source} in {hide_password(uri)}: {error}") from error


def _downloaded_model(folder: Path, source: str) -> Path:
    """Return the folder with the model's files: ``folder`` or one below it."""
    for candidate in (folder, *sorted(p.parent for p in folder.rglob(WEIGHTS_FILE))):
        if all((candidate / name).is_file() for name in MODEL_FILES):
            return candidate
    raise storage.MissingFileError(f"{source} does not hold {WEIGHTS_FILE} and {CONFIG_FILE}")
