"""The batch inference job: one Parquet file of detections per input shard; finished ones stay."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from pipeline import storage
from pipeline.cluster import connect
from pipeline.config import InferConfig, RunConfig
from pipeline.infer.cluster_use import needs_cluster
from pipeline.infer.detection_rows import read_detection_rows
from pipeline.infer.folder_plan import plan_folder
from pipeline.infer.image_listing import ImageListing
from pipeline.infer.inference_worker import CountMismatchError, InferenceJob
from pipeline.infer.inputs import InputChunk, is_shard_folder, plan_shards
from pipeline.infer.ledger import output_url, read_entries
from pipeline.infer.model_files import ModelFiles
from pipeline.infer.plan import Plan, plan_chunks
from pipeline.infer.visualizations import IMAGES_FOLDER, draw_predictions
from pipeline.infer.worker_pool import ChunkOutcome, predict_plan
from pipeline.output_layout import predictions_url, split_shards_url
from pipeline.track.promotion import CHAMPION
from pipeline.track.weights_source import pin_version, resolve_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferenceResult:
    """The outputs of a batch inference job. Field names are keys of ``summary.json``.

    Args:
        output_url: folder of the prediction files, ``summary.json`` and ``failed.jsonl``.
        model: the version or checkpoint that made the predictions.
        images: number of input images, and of output rows.
        failed: number of rows with ``error``.
        objects: number of detections written.
        shards_done: number of output files written by this run.
        shards_skipped: number of output files that an earlier run had finished.
        pictures: URLs of images with predictions drawn on them.
        skipped_files: suffix -> number of files of the input that are no images.
    """

    output_url: str
    model: str
    images: int
    failed: int
    objects: int
    shards_done: int
    shards_skipped: int
    pictures: tuple[str, ...]
    skipped_files: dict[str, int]


def run_inference(config: RunConfig) -> InferenceResult:
    """Predict on every image of ``infer.inputs`` with ``infer.model``.

    Raises:
        FileNotFoundError: the input has no images.
        TrackingError: the registry has no such model.
        CountMismatchError: the outputs do not have one row per input image.
    """
    settings = config.infer
    inputs = settings.inputs or split_shards_url(config, "val")
    output = predictions_url(config)
    source = pin_version(settings.model or f"models:/{config.track.model_name}@{CHAMPION}", config)
    with resolve_weights(source, config) as path:
        model = ModelFiles.read(path, config.model)
    job = InferenceJob(
        output,
        settings.batch,
        settings.score_threshold,
        source,
        settings.precision,
        config.data.bit_depth,
    )
    plan = _plan(inputs, settings, job, model)
    if needs_cluster(settings.workers):
        connect()
    logger.info(
        "predicting on %d of %d images of %s, in %d chunks, with %s",
        *(plan.images, plan.input_images, inputs, plan.chunks, source),
    )
    outcomes = predict_plan(plan, model, job, settings.workers)
    _check_count(plan, outcomes)
    _write_failures(output, outcomes)
    images = draw_predictions(
        _drawn_chunks(inputs, job, outcomes),
        output,
        storage.join(output, IMAGES_FOLDER),
        settings.pictures,
    )
    result = _summarize(output, source, plan, outcomes, images)
    storage.write_json(storage.join(output, "summary.json"), asdict(result))
    return result


def _plan(inputs: str, settings: InferConfig, job: InferenceJob, model: ModelFiles) -> Plan:
    if is_shard_folder(inputs):
        return plan_chunks(plan_shards(inputs), job.predictions_url, job.key_of(model))
    logger.info("listing the images of %s", inputs)
    return plan_folder(
        ImageListing(inputs, job.predictions_url),
        job.predictions_url,
        settings.images_per_shard,
        job.bit_depth,
        job.key_of(model),
    )


def _drawn_chunks(
    inputs: str, job: InferenceJob, outcomes: Sequence[ChunkOutcome]
) -> Iterator[InputChunk]:
    """Yield the chunks of the outputs again, as they are asked for."""
    if is_shard_folder(inputs):
        yield from plan_shards(inputs)
        return
    for outcome in outcomes:
        for _, entry in read_entries(job.predictions_url, [outcome.entry.name]):
            if entry is not None:
                yield entry.chunk(inputs, job.bit_depth)


def _check_count(plan: Plan, outcomes: Sequence[ChunkOutcome]) -> None:
    rows = sum(outcome.entry.images for outcome in outcomes)
    if rows != plan.input_images:
        raise CountMismatchError(
            f"the outputs have {rows} rows for {plan.input_images} images. Did another job write "
            "to the same folder? Start this one again."
        )


def _summarize(
    output: str,
    source: str,
    plan: Plan,
    outcomes: Sequence[ChunkOutcome],
    images: Sequence[str],
) -> InferenceResult:
    entries = [outcome.entry for outcome in outcomes]
    skipped = sum(outcome.skipped for outcome in outcomes)
    return InferenceResult(
        output_url=output,
        model=source,
        images=sum(entry.images for entry in entries),
        failed=sum(entry.failed for entry in entries),
        objects=sum(entry.objects for entry in entries),
        shards_done=len(outcomes) - skipped,
        shards_skipped=skipped,
        pictures=tuple(images),
        skipped_files=dict(plan.skipped_files),
    )


def _write_failures(output: str, outcomes: Sequence[ChunkOutcome]) -> None:
    """Write ``failed.jsonl``: one line per unreadable image, with the reason."""
    lines = [
        json.dumps({"image_id": row.image_id, "file_name": row.file_name, "error": row.error})
        for outcome in outcomes
        if outcome.entry.failed
        for row in read_detection_rows(output_url(output, outcome.entry.name))
        if row.error is not None
    ]
    storage.write_bytes(
        storage.join(output, "failed.jsonl"), "".join(f"{line}\n" for line in lines).encode()
    )
