"""Weights in a folder or a bucket, by URL: a model, the checkpoint of a run, or a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from model.weights.storage import BEST_FILE, CONFIG_FILE, WEIGHTS_FILE
from model.weights.storage.checksums import CHECKSUMS_FILE, verify_checksums
from model.weights.storage.model_folder import checkpoint_step, checkpoint_to_use
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.output_layout import TRAINING_FOLDER
from pipeline.storage.scratch import scratch_folder

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


@contextmanager
def stored_weights(source: str) -> Iterator[Path]:
    """Provide weights as a local path for a ``with`` block, checked against their checksums.

    Args:
        source: the URL of a model's folder, of a run's folder (for its best or newest checkpoint)
            or of a weights file.

    Yields:
        A folder with model.safetensors and model.json, or the weights file.

    Raises:
        MissingFileError: nothing is there, or a folder without model.safetensors and model.json.
        WeightsError: a file is damaged.
    """
    url, is_folder = _find_stored(source)
    with scratch_folder("weights") as scratch:
        path = _local_copy(url, is_folder, scratch)
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
