"""Run the workers of a training through Ray Train."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray
from mlflow import MlflowClient
from ray.train import FailureConfig, LoggingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from pipeline import storage
from pipeline.cluster import ClusterResources
from pipeline.output_layout import TRAINING_FOLDER
from pipeline.track.artifact_upload import UPLOAD_TIMEOUT_S
from pipeline.track.attempt import attempt
from pipeline.track.unsent_run import UnsentRun
from pipeline.train.checkpoint_store import DeleteOldCheckpoints
from pipeline.train.failures import StopOnLastingError, to_training_error
from pipeline.train.out_of_memory import StepOutOfMemoryError, with_smaller_micro_batches
from pipeline.train.process_group import NodeTorchConfig
from pipeline.train.resume import clear_interrupted_state
from pipeline.train.worker import train_worker
from pipeline.train.worker_resources import scaling_config, worker_environment
from pipeline.train.worker_task import WorkerResult, WorkerTask

logger = logging.getLogger(__name__)


def run_workers(
    task: WorkerTask, resources: ClusterResources, callbacks: Sequence[Any] = ()
) -> WorkerResult:
    """Train; after a step that ran out of memory, again with smaller micro-batches.

    New workers start each time: one that ran out of memory leaves the others waiting in the middle
    of an exchange, and its own memory is fragmented.

    Args:
        task: what every worker gets.
        resources: the cluster.
        callbacks: further Ray Train callbacks.

    Raises:
        TrainingError: the training failed, with the message of the worker that failed first.
    """
    while True:
        try:
            return _run_once(task, resources, callbacks)
        except StepOutOfMemoryError as error:
            train = with_smaller_micro_batches(task.config.train)
            if train is None or not train.retry_out_of_memory:
                raise
            task = replace(task, config=task.config.model_copy(update={"train": train}))
            _tag_run(task, "accumulate_after_out_of_memory", str(train.accumulate))
            logger.warning(
                "%s. Continuing with train.accumulate=%d; set it to avoid this restart",
                error,
                train.accumulate,
            )


def _tag_run(task: WorkerTask, key: str, value: str) -> None:
    """Set a tag of the run, or keep it for later if the tracker is away."""
    failure = attempt(
        lambda: MlflowClient(tracking_uri=task.tracking_uri).set_tag(task.run_id, key, value),
        UPLOAD_TIMEOUT_S,
    )
    if failure is not None:
        UnsentRun(task.config.output, task.run_id).keep_tags({key: value})
        logger.warning("MLflow run %s lacks the tag %s for now: %s", task.run_id, key, failure)


def _run_once(
    task: WorkerTask, resources: ClusterResources, callbacks: Sequence[Any]
) -> WorkerResult:
    """Start the workers, retry lost ones, and return what rank 0 returned."""
    train = task.config.train
    for url in (task.nan_report, task.nan_batch):
        storage.delete(url)
    clear_interrupted_state(task.config.output)
    trainer = _trainer(task, resources, callbacks)
    logger.info(
        "starting %d workers with %g CPUs each; the first step takes a while",
        train.worker_count,
        train.worker_cpus,
    )
    try:
        result: WorkerResult = trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        # Ray's message repeats the traceback of every worker; they were printed as they happened.
        raise to_training_error(error) from None
    return result


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Ray Train's trainer without the actor that removes the workers' placement group.

    If the controller dies, the job ends, and Ray removes the group with it; a sweep removes those
    of stopped trials itself (`pipeline.sweep.stopped_trials`). That actor would ask the dashboard
    every second, which a local Ray does not have.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [each for each in callbacks if not isinstance(each, PlacementGroupCleanerCallback)]


def _trainer(
    task: WorkerTask, resources: ClusterResources, callbacks: Sequence[Any]
) -> TorchTrainer:
    config = task.config
    store, path = storage.filesystem(config.output)
    scaling = scaling_config(config, resources)
    return _Trainer(
        train_worker,
        train_loop_config={"task": task},
        torch_config=NodeTorchConfig(),
        scaling_config=scaling,
        run_config=RayRunConfig(
            name=TRAINING_FOLDER,
            storage_path=path,
            storage_filesystem=store,
            failure_config=FailureConfig(max_failures=config.train.max_failures),
            callbacks=[
                *callbacks,
                DeleteOldCheckpoints(config.output, config.train.keep_checkpoints),
                StopOnLastingError(),
            ],
            # At lower levels Ray prints every report in full.
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": worker_environment(bool(scaling.use_gpu))},
        ),
    )
