"""Resolve weights from any source (registry, run, checkpoint, file, web) to a local path."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from model.weights.published.fetch import fetch_published
from model.weights.published.table import WORDS
from model.weights.storage import BEST_FILE, CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import CHECKSUMS_FILE, verify_checksums
from model.weights.storage.download import fetch_weights
from model.weights.storage.model_folder import checkpoint_step, checkpoint_to_use
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import TRAINING_FOLDER
from pipeline.track.mlflow_store import TrackingError, hide_password, open_store, tracking_uri
from pipeline.track.model_contents import check_contents

MODEL_FILES = (WEIGHTS_FILE, CONFIG_FILE)


def trained_checkpoint(config: RunConfig) -> str:
    """Return the URL of the checkpoint to use of the output's training.

    That is the best one if the training has named it (``train.final_checkpoint``), else the newest.

    Raises:
        MissingFileError: there is no complete checkpoint.
    """
    training = storage.join(config.output, TRAINING_FOLDER)
    checkpoint = checkpoint_in(training)
    if checkpoint is None:
        raise storage.MissingFileError(
            f"no checkpoint below {training}; train first, or set the weights to use"
        )
    return checkpoint


def checkpoint_in(folder: str) -> str | None:
    """Return the URL of the checkpoint to use in a folder; None without one.

    Checkpoints without both files of a model are left out.
    """
    files = set(storage.list_files(folder, MODEL_FILES))
    complete = {
        step: url
        for url in (file.removesuffix(f"/{CONFIG_FILE}") for file in files)
        if f"{url}/{WEIGHTS_FILE}" in files
        and (step := checkpoint_step(url[len(folder) :].strip("/"))) is not None
    }
    if not complete:
        return None
    best = storage.join(folder, BEST_FILE)
    content = storage.read_bytes(best) if storage.exists(best) else None
    return complete[checkpoint_to_use(complete, content, best)]


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
            f"({error.message}). Register one first with workflows/register.py."
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
        with tempfile.TemporaryDirectory(prefix="weights-") as scratch:
            downloaded = _download(source, config, Path(scratch))
            if source.startswith("models:/"):
                check_contents(downloaded, source)
            folder = _downloaded_model(downloaded, source)
            verify_checksums(folder, MODEL_FILES, shown=source)
            yield folder
    else:
        url, is_folder = _find_stored(source)
        with tempfile.TemporaryDirectory(prefix="weights-") as scratch:
            path = _local_copy(url, is_folder, Path(scratch))
            folder, shown = (path, url) if is_folder else (path.parent, url.rpartition("/")[0])
            verify_checksums(folder, MODEL_FILES if is_folder else (path.name,), shown)
            yield path


def _find_stored(source: str) -> tuple[str, bool]:
    """Return the URL of a model's folder or of a weights file, and whether it is a folder.

    Raises:
        MissingFileError: there is neither.
    """
    source = source.rstrip("/")
    if storage.exists(storage.join(source, WEIGHTS_FILE)):
        for name in MODEL_FILES:
            if not storage.exists(storage.join(source, name)):
                raise storage.MissingFileError(
                    f"{source} holds {WEIGHTS_FILE} but no {name}, which states the architecture "
                    f"and the classes; copy it there, or name the file {WEIGHTS_FILE} itself"
                )
        return source, True
    if not storage.exists(source):
        raise storage.MissingFileError(f"{source}: no such file or folder; check the URL")
    if storage.is_file(source):
        return source, False
    for folder in (source, storage.join(source, TRAINING_FOLDER)):
        if (checkpoint := checkpoint_in(folder)) is not None:
            return checkpoint, True
    raise storage.MissingFileError(
        f"{source} does not hold {WEIGHTS_FILE} and {CONFIG_FILE}, and no checkpoints. Is it a "
        "checkpoint folder?"
    )


def _local_copy(url: str, is_folder: bool, scratch: Path) -> Path:
    """Return the path of a local file or folder, or download what is needed of it."""
    local = storage.local_path(url)
    if local is not None:
        return local
    folder = url if is_folder else url.rpartition("/")[0]
    names = MODEL_FILES if is_folder else (url.rpartition("/")[2],)
    for name in (*names, CHECKSUMS_FILE):
        if name in names or storage.exists(storage.join(folder, name)):
            storage.download_file(storage.join(folder, name), storage.path_below(scratch, name))
    return scratch if is_folder else scratch / names[0]


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
