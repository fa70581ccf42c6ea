"""The batch inference job: one Parquet file of detections per input shard; finished ones stay."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from model.config.settings import ConfigError
from pipeline import storage
from pipeline.cluster import connect
from pipeline.config import InferConfig, RunConfig
from pipeline.extras import require_extra
from pipeline.infer.annotations.source import AnnotationSource, delete_annotation_files
from pipeline.infer.cluster_use import needs_cluster
from pipeline.infer.coco_export import delete_coco_files, write_coco_files
from pipeline.infer.detection_files import read_detection_rows
from pipeline.infer.folder_plan import plan_folder
from pipeline.infer.image_listing import ImageListing
from pipeline.infer.inference_worker import CountMismatchError, InferenceError, InferenceJob
from pipeline.infer.inputs import InputChunk, is_shard_folder, plan_shards
from pipeline.infer.ledger import output_url, read_entries
from pipeline.infer.model_files import ModelFiles
from pipeline.infer.plan import Plan, plan_chunks
from pipeline.infer.visualizations import IMAGES_FOLDER, draw_predictions
from pipeline.infer.worker_pool import ChunkOutcome, predict_plan
from pipeline.output_layout import predictions_url, split_shards_url
from pipeline.storage.exclusive_use import exclusive_use
from pipeline.track.promotion_record import CHAMPION
from pipeline.track.weights_source import pin_version, resolve_weights

logger = logging.getLogger(__name__)

FAILURES_FILE = "failed.jsonl"


@dataclass(frozen=True)
class InferenceResult:
    """The outputs of a batch inference job. Field names are keys of ``summary.json``.

    Args:
        output_url: folder of the prediction files, ``summary.json`` and ``failed.jsonl``.
        model: the version or checkpoint that made the predictions.
        images: number of output rows, one per image that was predicted on.
        failed: number of rows with ``error``.
        objects: number of detections written.
        shards_done: number of output files written by this run.
        shards_skipped: number of output files that an earlier run had finished.
        pictures: URLs of images with predictions drawn on them.
        skipped_files: suffix -> number of files of the input that are no images.
        unfinished: number of images that are left, after ``infer.max_hours``.
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
    unfinished: int


class UnfinishedError(InferenceError):
    """``infer.max_hours`` were over before all images were predicted on."""


class UnreadableImagesError(InferenceError):
    """The share of unreadable images is above ``infer.max_failed``."""


def run_inference(
    config: RunConfig, clock: Callable[[], float] = time.monotonic
) -> InferenceResult:
    """Predict on every image of ``infer.inputs`` with ``infer.model``.

    Args:
        config: the job's settings.
        clock: returns seconds from any origin, for ``infer.max_hours``.

    Raises:
        MissingFileError: the input has no images.
        TrackingError: the registry has no such model.
        ConfigError: Label Studio could not find the images.
        CountMismatchError: the outputs do not have one row per input image.
        FolderInUseError: another job writes to the output folder.
        UnfinishedError, UnreadableImagesError: see there; what was predicted is written.
    """
    _check_annotations(config)
    deadline_s = None
    if config.infer.max_hours is not None:
        deadline_s = clock() + 3600 * config.infer.max_hours
    default = f"models:/{config.track.model_name}@{CHAMPION}"
    source = pin_version(config.infer.model or default, config)
    with resolve_weights(source, config) as path:
        model = ModelFiles.read(path, config.model)
    with exclusive_use(predictions_url(config), "inference"):
        return _predict(config, source, model, deadline_s, clock)


def _predict(
    config: RunConfig,
    source: str,
    model: ModelFiles,
    deadline_s: float | None,
    clock: Callable[[], float],
) -> InferenceResult:
    settings = config.infer
    inputs = _inputs_url(config)
    output = predictions_url(config)
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
    delete_coco_files(output)
    delete_annotation_files(output)
    limited = plan if deadline_s is None else plan.until(deadline_s, clock)
    outcomes = predict_plan(limited, model, job, settings.workers)
    _write_failures(output, outcomes)
    if settings.coco_results:
        write_coco_files(output, _output_urls(output, outcomes))
    if settings.annotations.formats:
        _write_annotations(config, source, model, _output_urls(output, outcomes))
    images = draw_predictions(
        _drawn_chunks(inputs, job, outcomes),
        output,
        storage.join(output, IMAGES_FOLDER),
        settings.pictures,
    )
    result = _summarize(output, source, plan, outcomes, images)
    storage.write_json(storage.join(output, "summary.json"), asdict(result))
    _check(result, plan, settings)
    return result


def _output_urls(output: str, outcomes: Sequence[ChunkOutcome]) -> Iterator[str]:
    return (output_url(output, outcome.entry.name) for outcome in outcomes)


def _check_annotations(config: RunConfig) -> None:
    settings = config.infer.annotations
    if settings.formats:
        require_extra("labeling", "infer.annotations")
    needs_images = "label_studio" in settings.formats and settings.image_prefix is None
    if needs_images and is_shard_folder(_inputs_url(config)):
        raise ConfigError(
            [
                "infer.annotations.image_prefix: must be given for label_studio, because the "
                "inputs are shards and Label Studio needs the image files"
            ]
        )


def _write_annotations(
    config: RunConfig, source: str, model: ModelFiles, output_urls: Iterator[str]
) -> None:
    # Optional: the extra "labeling".
    from pipeline.infer.annotations.export import write_annotations  # noqa: PLC0415

    write_annotations(
        config.infer.annotations,
        AnnotationSource.of(source, model.settings(), model.classes()),
        _inputs_url(config),
        predictions_url(config),
        output_urls,
    )


def _inputs_url(config: RunConfig) -> str:
    return config.infer.inputs or split_shards_url(config, "val")


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


def _check(result: InferenceResult, plan: Plan, settings: InferConfig) -> None:
    """Raise if images are left, or if too many could not be read."""
    if settings.max_hours is not None and result.unfinished > 0:
        raise UnfinishedError(
            f"{result.unfinished} of {plan.input_images} images are left after infer.max_hours="
            f"{settings.max_hours:g}. Start the job again to continue; {result.output_url} has "
            "what is finished"
        )
    if result.unfinished != 0:
        raise CountMismatchError(
            f"the outputs have {result.images} rows for {plan.input_images} images. Did another "
            "job write to the same folder? Start this one again."
        )
    if result.failed > settings.max_failed * result.images:
        raise UnreadableImagesError(
            f"{result.failed} of {result.images} images could not be read, more than "
            f"infer.max_failed={settings.max_failed:g} allows. "
            f"{storage.join(result.output_url, FAILURES_FILE)} lists them with the reasons; all "
            "other images have their detections"
        )


def _summarize(
    output: str,
    source: str,
    plan: Plan,
    outcomes: Sequence[ChunkOutcome],
    pictures: Sequence[str],
) -> InferenceResult:
    entries = [outcome.entry for outcome in outcomes]
    skipped = sum(outcome.skipped for outcome in outcomes)
    images = sum(entry.images for entry in entries)
    return InferenceResult(
        output_url=output,
        model=source,
        images=images,
        failed=sum(entry.failed for entry in entries),
        objects=sum(entry.objects for entry in entries),
        shards_done=len(outcomes) - skipped,
        shards_skipped=skipped,
        pictures=tuple(pictures),
        skipped_files=dict(plan.skipped_files),
        unfinished=plan.input_images - images,
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
        storage.join(output, FAILURES_FILE), "".join(f"{line}\n" for line in lines).encode()
    )
