"""The batch inference job: one Parquet file of detections per input shard; finished ones stay."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from model.config.settings import ConfigError, Precision
from model.structures import Category
from pipeline import storage
from pipeline.cluster import connect
from pipeline.config import InferConfig, RunConfig
from pipeline.extras import require_extra
from pipeline.infer.annotations.source import AnnotationSource, delete_annotation_files
from pipeline.infer.cluster_use import needs_cluster
from pipeline.infer.coco_export import delete_coco_files, write_coco_files
from pipeline.infer.failures import FAILURES_FILE, write_failures
from pipeline.infer.inference_input import InferenceInput, open_input
from pipeline.infer.inference_worker import CountMismatchError, InferenceError, InferenceJob
from pipeline.infer.ledger import output_url
from pipeline.infer.model_files import ModelFiles
from pipeline.infer.plan import Plan
from pipeline.infer.visualizations import IMAGES_FOLDER, draw_predictions
from pipeline.infer.worker_pool import ChunkOutcome, predict_plan
from pipeline.output_layout import (
    COCO_RESULTS_FILE,
    SUMMARY_FILE,
    predictions_url,
    split_shards_url,
)
from pipeline.shards.class_match import ClassMatch, match_classes
from pipeline.storage.exclusive_use import exclusive_use
from pipeline.stream.dataset_checks import check_classes
from pipeline.track.promotion_record import CHAMPION
from pipeline.track.weights_source import pin_version, resolve_weights

logger = logging.getLogger(__name__)


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
        model_digest: SHA-256 of weights and settings.
        classes: of the model, in the order of its labels, if the input is shards.
        left_out_below: detections with a lower score were left out, although the model returns
            them; None if nothing was left out, or the input is not shards.
        score_threshold: ``infer.score_threshold``.
        precision: ``infer.precision``.
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
    model_digest: str
    classes: tuple[Category, ...] = ()
    left_out_below: float | None = None
    score_threshold: float = 0.0
    precision: Precision = "fp32"


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
        MissingFileError: the input is not there, or has no images.
        TrackingError: the registry has no such model.
        ConfigError: the settings do not fit the input; Label Studio could not find the images; the
            model and the input have no class in common.
        CountMismatchError: the outputs do not have one row per input image.
        FolderInUseError: another job writes to the output folder.
        UnfinishedError, UnreadableImagesError: see there; what was predicted is written.
    """
    images = open_job_input(config)
    deadline_s = None
    if config.infer.max_hours is not None:
        deadline_s = clock() + 3600 * config.infer.max_hours
    default = f"models:/{config.track.model_name}@{CHAMPION}"
    source = pin_version(config.infer.model or default, config)
    with resolve_weights(source, config) as path:
        model = ModelFiles.read(path, config.model)
    match = _match_classes(images, model) if config.infer.coco_results else None
    with exclusive_use(predictions_url(config), "inference"):
        return _predict(config, images, source, model, match, deadline_s, clock)


def open_job_input(config: RunConfig) -> InferenceInput:
    """Open ``infer.inputs`` and check that the settings fit it; nothing is listed yet.

    Raises:
        As `open_input`; ConfigError also if Label Studio could not find the images.
    """
    settings = config.infer
    url = settings.inputs or split_shards_url(config, "val")
    images = open_input(url, settings, predictions_url(config))
    if settings.annotations.formats:
        require_extra("labeling", "infer.annotations")
    needs_files = "label_studio" in settings.annotations.formats
    if needs_files and settings.annotations.image_prefix is None and not images.has_files():
        raise ConfigError(
            [
                "infer.annotations.image_prefix: must be given for label_studio, because the "
                f"inputs are {images.describe()} and Label Studio needs the image files"
            ]
        )
    return images


def _match_classes(images: InferenceInput, model: ModelFiles) -> ClassMatch | None:
    """Match the classes of the model with those that the input names, if it names any.

    Raises:
        ConfigError: they have no class in common.
    """
    classes, categories = model.classes(), images.categories()
    if not classes:  # a proposal network
        return None
    if not categories:
        logger.info("the input names no classes: %s has those of the model", COCO_RESULTS_FILE)
        return None
    check_classes("the detector", classes, categories, images.url)
    return match_classes(classes, categories)


def _predict(
    config: RunConfig,
    images: InferenceInput,
    source: str,
    model: ModelFiles,
    match: ClassMatch | None,
    deadline_s: float | None,
    clock: Callable[[], float],
) -> InferenceResult:
    settings = config.infer
    output = predictions_url(config)
    job = InferenceJob(
        output,
        settings.batch,
        settings.score_threshold,
        source,
        settings.precision,
        config.data.bit_depth,
        model.digest,
    )
    logger.info("listing the images of %s", images.url)
    plan = images.plan(output, settings.images_per_shard, job.bit_depth, job.key_of(model))
    if needs_cluster(settings.workers):
        connect()
    logger.info(
        "predicting on %d of %d images of %s, in %d chunks, with %s",
        *(plan.images, plan.input_images, images.url, plan.chunks, source),
    )
    # Until the job ends, no summary speaks for outputs of other models or settings.
    storage.delete(storage.join(output, SUMMARY_FILE))
    delete_coco_files(output)
    delete_annotation_files(output)
    limited = plan if deadline_s is None else plan.until(deadline_s, clock)
    outcomes = predict_plan(limited, model, job, settings.workers)
    write_failures(output, _output_urls(output, [each for each in outcomes if each.entry.failed]))
    if settings.coco_results:
        write_coco_files(output, _output_urls(output, outcomes), match)
    if settings.annotations.formats:
        _write_annotations(config, images, source, model, _output_urls(output, outcomes))
    drawn = draw_predictions(
        images.chunks(output, (outcome.entry.name for outcome in outcomes), job.bit_depth),
        output,
        storage.join(output, IMAGES_FOLDER),
        settings.pictures,
    )
    result = _summarize(job, plan, outcomes, drawn)
    if images.source is None:
        cuts = settings.score_threshold > model.score_threshold
        below = settings.score_threshold if cuts else None
        result = replace(result, classes=model.classes(), left_out_below=below)
    storage.write_json(storage.join(output, SUMMARY_FILE), asdict(result))
    _check(result, plan, settings)
    return result


def _output_urls(output: str, outcomes: Sequence[ChunkOutcome]) -> Iterator[str]:
    return (output_url(output, outcome.entry.name) for outcome in outcomes)


def _write_annotations(
    config: RunConfig,
    images: InferenceInput,
    source: str,
    model: ModelFiles,
    output_urls: Iterator[str],
) -> None:
    # Optional: the extra "labeling".
    from pipeline.infer.annotations.export import write_annotations  # noqa: PLC0415

    write_annotations(
        config.infer.annotations,
        AnnotationSource.of(source, model.settings(), model.classes()),
        images.image_url,
        predictions_url(config),
        output_urls,
    )


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
    job: InferenceJob,
    plan: Plan,
    outcomes: Sequence[ChunkOutcome],
    pictures: Sequence[str],
) -> InferenceResult:
    entries = [outcome.entry for outcome in outcomes]
    skipped = sum(outcome.skipped for outcome in outcomes)
    images = sum(entry.images for entry in entries)
    return InferenceResult(
        output_url=job.predictions_url,
        model=job.model_source,
        images=images,
        failed=sum(entry.failed for entry in entries),
        objects=sum(entry.objects for entry in entries),
        shards_done=len(outcomes) - skipped,
        shards_skipped=skipped,
        pictures=tuple(pictures),
        skipped_files=dict(plan.skipped_files),
        unfinished=plan.input_images - images,
        model_digest=job.model_digest,
        score_threshold=job.score_threshold,
        precision=job.precision,
    )
