"""A trial of a population: it tells Ray Tune its checkpoints, and goes on from those of others.

Ray Tune moves checkpoints between trials only if trials report them to it. A training keeps its own
checkpoints, so what is reported is a small file that names one of them.
"""

import contextlib
import json
import logging
import tempfile
import threading
from pathlib import Path
from typing import Any

import ray.train
from ray import tune
from ray.util.queue import Empty, Queue

from model.weights.storage import BEST_FILE
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.storage.exclusive_use import exclusive_use
from pipeline.train.checkpoint_store import list_checkpoints, training_url
from pipeline.train.driver import run_training
from pipeline.train.validation_history import history_of_step

logger = logging.getLogger(__name__)

COPIED_FROM, COPIED_STEP = "copied_from", "copied_step"
"""Keys in the reports of a trial that goes on from a checkpoint of another: which, and its step."""

_POINTER = "checkpoint.json"
_COPYING = "copied"


def train_in_population(
    config: RunConfig, parent_run_id: str, trial_id: str, sweep_folder: str
) -> None:
    """Train, from another trial's checkpoint if Ray Tune says so.

    Args:
        config: the trial's settings.
        parent_run_id: the sweep's MLflow run.
        trial_id: the trial.
        sweep_folder: URL of the folder that holds all trials.
    """
    copied: dict[str, Any] = {}
    _finish_copy(config.output)
    pointer = _read_pointer()
    if pointer is not None and pointer["trial"] != trial_id:
        source = storage.join(sweep_folder, "trials", pointer["trial"])
        # The training that is replaced may still be ending.
        with exclusive_use(training_url(config.output), "copying of a checkpoint"):
            step = copy_checkpoint(source, config.output, pointer["checkpoint"])
        copied = {COPIED_FROM: pointer["trial"], COPIED_STEP: step}
        logger.info("trial %s goes on from step %d of %s", trial_id, step, pointer["trial"])
    reports = Queue(actor_options={"num_cpus": 0})
    errors: list[BaseException] = []

    def train() -> None:
        try:
            run_training(config, parent_run_id=parent_run_id, callbacks=[QueuedReports(reports)])
        except BaseException as error:
            errors.append(error)

    # Only the thread that Ray Tune has started may report to it.
    thread = threading.Thread(target=train, name="training", daemon=True)
    thread.start()
    while thread.is_alive() or not reports.empty():
        with contextlib.suppress(Empty):
            metrics, checkpoint = reports.get(timeout=1.0)
            _report({**metrics, **copied}, trial_id, checkpoint)
    if errors:
        raise errors[0]


class QueuedReports(ray.train.UserCallback):  # type: ignore[misc]
    """Puts the metrics and the checkpoint's name of each report into a queue."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Pass on what rank 0 has reported."""
        name = None if checkpoint is None else checkpoint.path.rpartition("/")[2]
        self._queue.put((metrics[0], name))


def _report(metrics: dict[str, Any], trial_id: str, checkpoint: str | None) -> None:
    if checkpoint is None:
        tune.report(metrics)
        return
    with tempfile.TemporaryDirectory(prefix="pointer-") as folder:
        pointer = {"trial": trial_id, "checkpoint": checkpoint}
        (Path(folder) / _POINTER).write_text(json.dumps(pointer))
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def _read_pointer() -> dict[str, Any] | None:
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        pointer: dict[str, Any] = json.loads((Path(folder) / _POINTER).read_text())
        return pointer


def copy_checkpoint(source: str, target: str, name: str) -> int:
    """Replace the checkpoints of one trial by a checkpoint of another.

    The other trial may have deleted it since; then its newest one is taken. Its validation comes
    along, so that it is not repeated.

    Args:
        source: output folder of the trial to copy.
        target: output folder of the trial that is replaced.
        name: name of the checkpoint.

    Returns:
        The step of the checkpoint.

    Raises:
        MissingFileError: the trial to copy has no checkpoint.
    """
    available = list_checkpoints(source)
    if not available:
        raise storage.MissingFileError(f"no checkpoint to copy in {training_url(source)}")
    named = [url for url in available if url.endswith(f"/{name}")]
    url = (named or available)[0]
    name = url.rpartition("/")[2]
    step = int(name.rpartition("_")[2])
    # Copied first, then renamed: a trial that is killed meanwhile has its old or its new weights.
    copying = storage.join(target, _COPYING)
    storage.delete(copying)
    with storage.fetch(url) as folder:
        storage.upload_folder(folder, storage.join(copying, name))
    history = history_of_step(source, step)
    storage.write_json(storage.join(copying, _POINTER), {"name": name, "history": history})
    _finish_copy(target)
    return step


def _finish_copy(target: str) -> None:
    """Put a copied checkpoint in the place of a trial's own ones, if there is a complete one."""
    copying = storage.join(target, _COPYING)
    pointer = storage.join(copying, _POINTER)
    if not storage.exists(pointer):
        return
    content = storage.read_json(pointer)
    name, history = content["name"], content.get("history")
    copied = storage.join(copying, name)
    if storage.exists(copied):
        for own in list_checkpoints(target):
            storage.delete(own)
        # The validations of the replaced weights do not count for the new ones.
        best = storage.join(training_url(target), BEST_FILE)
        if history is None:
            storage.delete(best)
        else:
            storage.write_json(best, history)
        storage.move_folder(copied, storage.join(training_url(target), name))
    storage.delete(copying)
