"""The training job: from a config to a checkpoint, through Ray Train and MLflow.

Everything is written to ``{output}/train``: checkpoints, ``run.json``, ``best.json`` and, after a
NaN, ``nan_batch.json`` and ``nan_batch.safetensors``.
Submitting the same job again continues from the newest checkpoint, or returns at once if the
training is finished.
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.cluster import connect
from pipeline.config import RunConfig
from pipeline.output_layout import split_shards_url
from pipeline.shards.manifest import MANIFEST_NAME, Manifest
from pipeline.storage.exclusive_use import exclusive_use
from pipeline.storage.records import parse_record
from pipeline.stream.training_plan import read_training_manifest
from pipeline.track.mlflow_run import TrackedRun, open_run
from pipeline.track.mlflow_store import recorded_uri, tracking_uri
from pipeline.track.stored_weights import trained_checkpoint
from pipeline.train.checkpoint_store import training_url
from pipeline.train.failures import TrainingError
from pipeline.train.ray_workers import run_workers
from pipeline.train.resume import find_checkpoint
from pipeline.train.run_inputs import recorded_inputs
from pipeline.train.run_record import (
    RunRecord,
    check_resumable,
    ended_at,
    is_finished,
    model_settings,
    read_run_record,
    recipe_settings,
    write_run_record,
)
from pipeline.train.run_tracking import recorded_checkpoints, send_unsent
from pipeline.train.start_checks import check_data, check_frozen_parts, check_start
from pipeline.train.start_weights import adopt_conventions
from pipeline.train.training_length import log_length, settle_schedule
from pipeline.train.validation_history import best_metric
from pipeline.train.worker_count import settle_workers
from pipeline.train.worker_task import WorkerResult, WorkerTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """The result of a finished training.

    Args:
        checkpoint_url: folder of the checkpoint to use, the best or the last one; see
            ``train.final_checkpoint``.
        run_id: the MLflow run.
        metrics: the losses (``train/...``) and validation metrics (``val/...``) of the last step.
        steps: optimizer steps taken in total.
        stopped: why the training ended before its last step; None if it took all steps.
        best_step: steps before the best validation, by ``train.best_metric``; None without any.
        best_metrics: the metrics of that validation (``val/...``).
    """

    checkpoint_url: str
    run_id: str
    metrics: dict[str, float]
    steps: int
    stopped: str | None = None
    best_step: int | None = None
    best_metrics: dict[str, float] = dataclasses.field(default_factory=dict)


def run_training(
    config: RunConfig, *, parent_run_id: str | None = None, callbacks: Sequence[Any] = ()
) -> TrainingResult:
    """Train a detector; continue an unfinished training, or return a finished one.

    Args:
        config: the job's settings.
        parent_run_id: MLflow run to nest under, for sweeps.
        callbacks: Ray Train callbacks, for sweeps.

    Raises:
        TrainingError: the training failed, with the message of the worker that failed; or it cannot
            start, because of the classes, the workers, or frozen norms without weights.
        ConfigError: the masks or keypoints of the shards do not fit the model.
        CheckpointError: the output has checkpoints, but no intact one.
        RunMismatchError: the output holds a run that these settings cannot continue.
        FileNotFoundError: there are no training shards.
        FolderInUseError: another job trains in the output folder.
    """
    shards = split_shards_url(config, "train")
    manifest = read_training_manifest(config, shards)
    check_data(config, manifest, shards)
    best_metric(config)  # fails now if it is not measured
    config = settle_schedule(config, manifest)
    with exclusive_use(training_url(config.output), "training"):
        return _train(config, manifest, shards, parent_run_id, callbacks)


def _train(
    config: RunConfig,
    manifest: Manifest,
    shards: str,
    parent_run_id: str | None,
    callbacks: Sequence[Any],
) -> TrainingResult:
    recorded = read_run_record(config.output)
    config, adopted = adopt_conventions(config, recorded.adopted if recorded else None)
    present = dataclasses.replace(_present_record(config, manifest, recorded), adopted=adopted)
    if recorded is not None:
        check_resumable(recorded, present, config.output)
    checkpoint = find_checkpoint(config.output)
    if recorded is not None and (result := _finished(config, recorded, present, checkpoint)):
        return result
    check_start(config, recorded, present, checkpoint)
    check_frozen_parts(config, resumes=checkpoint is not None)

    log_length(config, manifest)
    resources = connect()
    config = config.model_copy(update={"train": settle_workers(config.train, resources)})
    run_id = present.run_id or None
    with open_run(config, "train", run_id=run_id, parent_run_id=parent_run_id) as run:
        record = dataclasses.replace(present, run_id=run.run_id)
        write_run_record(config.output, record)
        task = WorkerTask(
            config=config,
            categories=manifest.categories,
            train_shards=shards,
            val_shards=_validation_shards(config),
            tracking_uri=run.uri,
            run_id=run.run_id,
            nan_report=storage.join(training_url(config.output), "nan_batch.json"),
            nan_batch=storage.join(training_url(config.output), "nan_batch.safetensors"),
            is_trial=parent_run_id is not None,
            ended_at=present.ended_at,
        )
        with (
            recorded_checkpoints(run, config),
            recorded_inputs(run, config, manifest, shards, task.val_shards),
        ):
            worker_result = run_workers(task, resources, callbacks)
        result = _result(config, run, worker_result)
        finished = {k: v for k, v in dataclasses.asdict(result).items() if k != "run_id"}
        write_run_record(config.output, dataclasses.replace(record, result=finished))
    return result


def _finished(
    config: RunConfig, recorded: RunRecord, present: RunRecord, checkpoint: str | None
) -> TrainingResult | None:
    """Return the result of a finished training, if its checkpoint is still there."""
    if recorded.result is None or not is_finished(recorded, present):
        return None
    result = parse_record(
        {**recorded.result, "run_id": recorded.run_id},
        TrainingResult,
        storage.join(training_url(config.output), "run.json"),
        "rename it, and the training continues without it",
    )
    if checkpoint is not None and trained_checkpoint(config) == result.checkpoint_url:
        if present.run_id:  # in this tracking store
            send_unsent(tracking_uri(config), present.run_id, config.output)
        logger.info("the training in %s is finished; nothing to do", config.output)
        return result
    logger.warning(
        "the training in %s was finished, but its checkpoint is gone; training again from %s",
        config.output,
        checkpoint or "the beginning",
    )
    return None


def _present_record(config: RunConfig, manifest: Manifest, recorded: RunRecord | None) -> RunRecord:
    """Build this job's record; its run id is empty if a new MLflow run is needed."""
    uri = recorded_uri(tracking_uri(config), config.output)
    return RunRecord(
        run_id=recorded.run_id if recorded and recorded.tracking_uri == uri else "",
        tracking_uri=uri,
        dataset_digest=manifest.digest,
        model=model_settings(config),
        recipe=recipe_settings(config),
        ended_at=ended_at(recorded),
    )


def _result(config: RunConfig, run: TrackedRun, worker_result: WorkerResult) -> TrainingResult:
    if worker_result.not_finite is not None:
        raise TrainingError(worker_result.not_finite)
    return TrainingResult(
        checkpoint_url=trained_checkpoint(config),
        run_id=run.run_id,
        metrics=worker_result.metrics,
        steps=worker_result.steps,
        stopped=worker_result.stopped,
        best_step=worker_result.best_step,
        best_metrics=worker_result.best_metrics,
    )


def _validation_shards(config: RunConfig) -> str | None:
    url = split_shards_url(config, "val")
    if storage.exists(storage.join(url, MANIFEST_NAME)):
        return url
    logger.warning("no validation shards at %s: training without validation", url)
    return None
