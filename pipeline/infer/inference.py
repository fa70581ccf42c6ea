"""Batch inference: one Parquet file of detections per input shard, finished ones never redone."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline import storage
from pipeline.cluster import connect
from pipeline.config import RunConfig
from pipeline.infer.inputs import plan_inputs
from pipeline.infer.ledger import output_url
from pipeline.infer.pictures import draw_predictions
from pipeline.infer.piece_worker import PredictionJob
from pipeline.infer.prediction_rows import read_predictions
from pipeline.infer.prediction_run import PieceOutcome, predict_pieces
from pipeline.infer.predictor import ModelFiles
from pipeline.ingest.splits import split_shards_url
from pipeline.track.promotion import CHAMPION
from pipeline.track.weights_source import pin_version, resolve_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InferenceResult:
    """What a run of batch inference left behind.

    Args:
        output_url: folder of the prediction files, ``summary.json`` and ``failed.jsonl``.
        model: the version or checkpoint that predicted.
        images: images in, and rows out.
        failed: rows with ``error`` among them.
        objects: detections written.
        shards_done: output files written by this run.
        shards_skipped: output files that stood already.
        pictures: URLs of pictures with predictions drawn.
    """

    output_url: str
    model: str
    images: int
    failed: int
    objects: int
    shards_done: int
    shards_skipped: int
    pictures: tuple[str, ...]


def run_inference(config: RunConfig) -> InferenceResult:
    """Predict on every image of ``infer.inputs`` with ``infer.model``.

    Raises:
        FileNotFoundError: there is nothing to predict on.
        TrackingError: the registry has no such model.
        CountMismatchError: the outputs do not add up to the inputs.
    """
    settings = config.infer
    inputs = settings.inputs or split_shards_url(config, "val")
    output = settings.output or storage.join(config.output, "predictions")
    pieces = plan_inputs(inputs, settings.images_per_shard)
    source = pin_version(settings.model or f"models:/{config.track.model_name}@{CHAMPION}", config)
    with resolve_weights(source, config) as path:
        model = ModelFiles.read(path, config.model)
    connect()
    logger.info(
        "%d images in %d pieces of %s with %s",
        sum(piece.images for piece in pieces),
        len(pieces),
        inputs,
        source,
    )
    job = PredictionJob(output, settings.batch, settings.score_threshold, source)
    outcomes = predict_pieces(pieces, model, job, settings.workers)
    _write_failures(output, outcomes)
    pictures = draw_predictions(pieces, output, storage.join(output, "pictures"), settings.pictures)
    result = _summarise(output, source, outcomes, pictures)
    storage.write_json(storage.join(output, "summary.json"), asdict(result))
    return result


def _summarise(
    output: str, source: str, outcomes: Sequence[PieceOutcome], pictures: list[str]
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
        pictures=tuple(pictures),
    )


def _write_failures(output: str, outcomes: Sequence[PieceOutcome]) -> None:
    """``failed.jsonl``: one line per image that could not be read, with the reason."""
    lines = [
        json.dumps({"image_id": row.image_id, "file_name": row.file_name, "error": row.error})
        for outcome in outcomes
        if outcome.entry.failed
        for row in read_predictions(output_url(output, outcome.entry.name))
        if row.error is not None
    ]
    storage.write_bytes(
        storage.join(output, "failed.jsonl"), "".join(f"{x}\n" for x in lines).encode()
    )
