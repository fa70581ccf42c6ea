"""Predictions on shards: those that an evaluation makes, or that batch inference has written."""

import logging
from dataclasses import dataclass, fields

from model.config.settings import Precision
from model.structures import Category
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.infer.detection_files import SCHEMA_VERSION, iterate_errors
from pipeline.infer.inference_worker import InferenceJob
from pipeline.infer.inputs import UNKNOWN_ID, InputChunk, plan_shards
from pipeline.infer.ledger import LedgerEntry, chunk_key, output_url, read_entries, recorded_names
from pipeline.infer.model_files import OWN_SETTINGS, ModelFiles
from pipeline.infer.plan import output_sizes
from pipeline.infer.worker_pool import predict_chunks
from pipeline.output_layout import SUMMARY_FILE
from pipeline.storage.records import parse_record

logger = logging.getLogger(__name__)

_OWN_SETTINGS_NOTE = (
    "Measured with {settings}. A version registered from these weights predicts with those of its "
    "training configuration instead."
)


_LEFT_OUT_NOTE = (
    "Detections with a score below {score:g} were not written, and AP lacks them; "
    "infer.score_threshold=0 writes all."
)


class UnusablePredictionsError(storage.StorageError):
    """Written predictions are not those of a detector on all images of the shards."""


@dataclass(frozen=True)
class ShardPredictions:
    """A detector's predictions on all images of a dataset, in files.

    Args:
        url: folder of the files.
        names: of the files, without suffix, one per shard, in order.
        weights: the version or checkpoint that made them.
        model_digest: SHA-256 of its weights and settings.
        classes: of the detector, in the order of its labels; empty for a proposal network.
        notes: what a report has to say about them.
    """

    url: str
    names: tuple[str, ...]
    weights: str
    model_digest: str
    classes: tuple[Category, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Summary:
    """What is needed of ``summary.json``; see `InferenceResult`."""

    model: str
    model_digest: str
    classes: tuple[Category, ...]
    unfinished: int
    left_out_below: float | None
    score_threshold: float
    precision: Precision


def make_predictions(
    config: RunConfig, source: str, model: ModelFiles, shards_url: str, predictions_url: str
) -> ShardPredictions:
    """Predict on all shards that are not finished yet; see `predict_chunks`."""
    settings = config.evaluate
    job = InferenceJob(
        predictions_url,
        settings.batch,
        0.0,
        source,
        settings.precision,
        model_digest=model.digest,
    )
    outcomes = predict_chunks(plan_shards(shards_url), model, job, settings.workers)
    names = tuple(outcome.entry.name for outcome in outcomes)
    shown = [f"model.{name}" for name in OWN_SETTINGS if getattr(config.model, name)]
    notes = (_OWN_SETTINGS_NOTE.format(settings=" and ".join(shown)),) if shown else ()
    return ShardPredictions(predictions_url, names, source, model.digest, model.classes(), notes)


def read_written_predictions(url: str, shards_url: str) -> ShardPredictions:
    """Check that ``infer_batch`` has predicted on all images of these shards, and on no others.

    Args:
        url: its output folder.
        shards_url: the shards.

    Raises:
        UnusablePredictionsError: images are missing, or the predictions are of other shards, of
            several models, or of an earlier version of the rows.
        StorageError: a file cannot be read.
    """
    summary = _read_summary(url)
    chunks = plan_shards(shards_url)
    entries = dict(read_entries(url, recorded_names(url)))
    sizes = output_sizes(url)
    missing = 0
    unread: list[str] = []
    for chunk in chunks:
        entry = entries.pop(chunk.name, None)
        if entry is None or sizes.get(chunk.name) != entry.size:
            missing += chunk.images
        else:
            _check_entry(entry, chunk, summary, url, shards_url)
            if entry.failed:
                unread += _unread_images(url, chunk)
    if missing and missing == sum(chunk.images for chunk in chunks):
        raise _of_other_shards(url, shards_url)
    if missing or summary.unfinished:
        raise UnusablePredictionsError(
            f"{url} has no predictions on {missing or summary.unfinished} images of {shards_url}; "
            "start infer_batch again to finish it"
        )
    if entries:
        raise _of_other_shards(url, shards_url)
    if unread:
        raise UnusablePredictionsError(
            f"{url} has no predictions on {len(unread)} images, because their shards could not be "
            f"read then: {unread[0]}"
        )
    names = tuple(chunk.name for chunk in chunks)
    notes: tuple[str, ...] = ()
    if summary.left_out_below is not None:
        notes = (_LEFT_OUT_NOTE.format(score=summary.left_out_below),)
        logger.warning("%s: %s", url, *notes)
    return ShardPredictions(url, names, summary.model, summary.model_digest, summary.classes, notes)


def _check_entry(
    entry: LedgerEntry, chunk: InputChunk, summary: _Summary, url: str, shards_url: str
) -> None:
    """Raise unless an output is that of the summary's model and settings on this shard."""
    if entry.versions != chunk.versions or entry.images != chunk.images:
        raise _of_other_shards(url, shards_url)
    if entry.schema != SCHEMA_VERSION:
        raise UnusablePredictionsError(
            f"{url} was written by another version of maskrcnn-ray; start infer_batch again, "
            "which writes it anew"
        )
    key = chunk_key(chunk, entry.model_digest, entry.score_threshold, entry.precision)
    made_with = (entry.model_digest, entry.score_threshold, entry.precision)
    stated = (summary.model_digest, summary.score_threshold, summary.precision)
    if made_with != stated or entry.key != key:
        raise UnusablePredictionsError(
            f"{url} has predictions of several models or settings; start infer_batch again to "
            "finish it"
        )


def _unread_images(url: str, chunk: InputChunk) -> list[str]:
    """Return the errors of images that were not found, because their shard was damaged."""
    [shard] = chunk.files
    return [
        error
        for image_id, name, error in iterate_errors(output_url(url, chunk.name))
        if image_id == UNKNOWN_ID and name.startswith(f"{shard}[")
    ]


def _of_other_shards(url: str, shards_url: str) -> UnusablePredictionsError:
    return UnusablePredictionsError(
        f"{url} has predictions on other images than those of {shards_url}; write them with "
        f"maskrcnn-ray infer_batch CONFIG infer.inputs={shards_url} infer.output={url}, or correct "
        "evaluate.predictions"
    )


def _read_summary(url: str) -> _Summary:
    summary_url = storage.join(url, SUMMARY_FILE)
    try:
        document = storage.read_json(summary_url)
    except storage.MissingFileError:
        raise UnusablePredictionsError(
            f"{url} has no {SUMMARY_FILE}, so it is no output of infer_batch, or one that is not "
            "finished; correct evaluate.predictions, or start infer_batch again"
        ) from None
    known = document.keys() if isinstance(document, dict) else ()
    if known and (lacking := sorted({each.name for each in fields(_Summary)} - known)):
        raise UnusablePredictionsError(
            f"{summary_url} was written by an earlier version of maskrcnn-ray and lacks "
            f"{', '.join(lacking)}; start infer_batch again, which writes it anew"
        )
    return parse_record(document, _Summary, summary_url, "start infer_batch again")
