"""The training job: from a config to a checkpoint, through Ray Train and MLflow.

Everything is written to ``{output}/train``: Ray's checkpoints, ``run.json``, ``nan_batch.json``.
Submitting the same job again continues from the newest checkpoint, or returns at once if the
training is finished.
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.train import FailureConfig, LoggingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchTrainer

from pipeline import storage
from pipeline.cluster import ClusterResources, connect
from pipeline.config import RunConfig
from pipeline.output_layout import TRAINING_FOLDER, split_shards_url
from pipeline.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from pipeline.stream.dataset_checks import check_training_data, check_validation_data
from pipeline.track.mlflow_run import TrackedRun, open_run
from pipeline.track.mlflow_store import recorded_uri, tracking_uri
from pipeline.track.weights_source import newest_checkpoint
from pipeline.train.checkpoint_store import KeepNewestCheckpoints
from pipeline.train.failures import StopOnLastingError, TrainingError, to_training_error
from pipeline.train.process_group import NodeTorchConfig
from pipeline.train.resume import clear_interrupted_state, find_checkpoint
from pipeline.train.run_record import (
    RunRecord,
    check_resumable,
    is_finished,
    model_settings,
    read_run_record,
    recipe_settings,
    write_run_record,
)
from pipeline.train.start_weights import adopt_conventions
from pipeline.train.training_length import log_length, settle_schedule
from pipeline.train.worker import WorkerResult, WorkerTask, train_worker
from pipeline.train.worker_resources import scaling_config, worker_environment

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """The result of a finished training.

    Args:
        checkpoint_url: folder of the last checkpoint, for ``load_detector`` and ``evaluate``.
        run_id: the MLflow run.
        metrics: the last losses (``train/...``) and validation metrics (``val/...``).
        steps: optimizer steps taken in total.
    """

    checkpoint_url: str
    run_id: str
    metrics: dict[str, float]
    steps: int


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
    """
    shards = split_shards_url(config, "train")
    manifest = read_manifest(shards)
    _check_data(config, manifest, shards)
    config = settle_schedule(config, manifest)
    recorded = read_run_record(config.output)
    config, adopted = adopt_conventions(config, recorded.adopted if recorded else None)
    present = dataclasses.replace(_present_record(config, manifest, recorded), adopted=adopted)
    if recorded is not None:
        check_resumable(recorded, present, config.output)
    checkpoint = find_checkpoint(config.output)
    if recorded is not None and (result := _finished(config, recorded, present, checkpoint)):
        return result
    check_frozen_parts(config, resumes=checkpoint is not None)

    log_length(config, manifest)
    resources = connect()
    run_id = present.run_id or None
    with open_run(config, "train", run_id=run_id, parent_run_id=parent_run_id) as run:
        record = dataclasses.replace(present, run_id=run.run_id)
        write_run_record(config.output, record)
        result = _fit(config, manifest, shards, run, resources, callbacks)
        finished = {k: v for k, v in dataclasses.asdict(result).items() if k != "run_id"}
        write_run_record(config.output, dataclasses.replace(record, result=finished))
    return result


def _finished(
    config: RunConfig, recorded: RunRecord, present: RunRecord, checkpoint: str | None
) -> TrainingResult | None:
    """Return the result of a finished training, if its last checkpoint is still there."""
    if recorded.result is None or not is_finished(recorded, present):
        return None
    result = TrainingResult(run_id=recorded.run_id, **recorded.result)
    if checkpoint == result.checkpoint_url:
        logger.info("the training in %s is finished; nothing to do", config.output)
        return result
    logger.warning(
        "the training in %s was finished, but its last checkpoint is gone; training again from %s",
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
    )


def _check_data(config: RunConfig, manifest: Manifest, shards: str) -> None:
    """Check now what the workers or the last validation would fail on later."""
    categories = len(manifest.categories)
    if config.model.num_classes != categories:
        raise TrainingError(
            f"model.num_classes is {config.model.num_classes}, but the training shards have "
            f"{categories} categories; set model.num_classes={categories}"
        )
    check_training_data(config, manifest, shards)
    val_shards = split_shards_url(config, "val")
    if storage.exists(storage.join(val_shards, MANIFEST_NAME)):
        check_validation_data(config, read_manifest(val_shards), val_shards, manifest.categories)


def check_frozen_parts(config: RunConfig, resumes: bool = False) -> None:
    """Check that the parts of the detector that are not trained have weights.

    Args:
        config: the job's settings.
        resumes: whether the training continues from a checkpoint, which has all weights.

    Raises:
        TrainingError: the backbone's norms are frozen without weights, so they do not normalize.
    """
    train, backbone = config.train, config.model.backbone
    if train.weights is not None or train.allow_frozen_random_norms or resumes:
        return
    if backbone.norm == "frozen_bn":
        raise TrainingError(
            "model.backbone.norm is frozen_bn but train.weights is not set: without pretrained "
            "weights such a detector does not learn. Set train.weights (see configs/README.md), or "
            "model.backbone.norm=batch_norm or group_norm; train.allow_frozen_random_norms=true "
            "trains it anyway."
        )
    if backbone.frozen_stages > 0:
        logger.warning(
            "model.backbone.frozen_stages is %d but train.weights is not set: these stages keep "
            "their random weights; set train.weights or model.backbone.frozen_stages=0",
            backbone.frozen_stages,
        )


def _fit(
    config: RunConfig,
    manifest: Manifest,
    shards: str,
    run: TrackedRun,
    resources: ClusterResources,
    callbacks: Sequence[Any],
) -> TrainingResult:
    nan_report = storage.join(config.output, TRAINING_FOLDER, "nan_batch.json")
    task = WorkerTask(
        config=config,
        categories=manifest.categories,
        train_shards=shards,
        val_shards=_validation_shards(config),
        tracking_uri=run.uri,
        run_id=run.run_id,
        nan_report=nan_report,
    )
    storage.delete(nan_report)
    clear_interrupted_state(config.output)
    store, path = storage.filesystem(config.output)
    scaling = scaling_config(config, resources)
    trainer = TorchTrainer(
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
                KeepNewestCheckpoints(config.output, config.train.keep_checkpoints),
                StopOnLastingError(),
            ],
            # At lower levels Ray prints every report in full.
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": worker_environment(bool(scaling.use_gpu))},
        ),
    )
    logger.info("starting %d workers; the first step takes a while", config.train.workers)
    try:
        fitted = trainer.fit()
    except ray.train.TrainingFailedError as error:
        # Ray's message repeats the traceback of every worker; they were printed as they happened.
        raise to_training_error(error) from None
    worker_result: WorkerResult = fitted.return_value
    if worker_result.not_finite is not None:
        raise TrainingError(worker_result.not_finite)
    return TrainingResult(
        checkpoint_url=newest_checkpoint(config),
        run_id=run.run_id,
        metrics=worker_result.metrics,
        steps=worker_result.steps,
    )


def _validation_shards(config: RunConfig) -> str | None:
    url = split_shards_url(config, "val")
    if storage.exists(storage.join(url, MANIFEST_NAME)):
        return url
    logger.warning("no validation shards at %s: training without validation", url)
    return None
