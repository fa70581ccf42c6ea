"""Predict on one chunk with one model replica; write its output file and ledger entry."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from model import Predictor
from model.config.settings import Precision
from pipeline.infer.detection_files import SCHEMA_VERSION, DetectionsFile
from pipeline.infer.detection_rows import detection_row
from pipeline.infer.detection_stream import predict_images
from pipeline.infer.inputs import InputChunk, read_images
from pipeline.infer.ledger import LedgerEntry, chunk_key, output_url, write_entry
from pipeline.infer.model_files import ModelFiles
from pipeline.infer.plan import KeyOf
from pipeline.operator_backend import warn_if_not_compiled

REPORT_INTERVAL_S = 1.0


class InferenceError(RuntimeError):
    """A job of batch inference failed; the message says what to do."""


class CountMismatchError(InferenceError):
    """The output does not have one row per input image."""


@dataclass(frozen=True)
class InferenceJob:
    """The settings that all chunks share.

    Args:
        predictions_url: folder of the output files.
        batch: images per forward pass.
        score_threshold: detections with a lower score are left out.
        model_source: source of the weights, for the ledger.
        precision: autocast dtype of the forward passes.
        bit_depth: significant bits of images with more than 8, if they are not in shards; None
            follows the files.
        model_digest: SHA-256 of weights and settings.
    """

    predictions_url: str
    batch: int
    score_threshold: float
    model_source: str
    precision: Precision = "fp32"
    bit_depth: int | None = None
    model_digest: str = ""

    def key_of(self, model: ModelFiles) -> KeyOf:
        """Return the function that gives the key of a chunk in this job."""
        digest = model.digest
        return lambda chunk: chunk_key(chunk, digest, self.score_threshold, self.precision)


class InferenceWorker:
    """A Ray actor with one replica of the model.

    Args:
        model: the detector's files.
        job: the settings that all chunks share.
        device: "cpu" or "cuda".
        threads: CPU threads of a forward pass.
    """

    def __init__(self, model: ModelFiles, job: InferenceJob, device: str, threads: int) -> None:
        if device == "cpu":
            torch.set_num_threads(min(threads, os.cpu_count() or 1))
        warn_if_not_compiled(torch.device(device))
        self.job = job
        self.predictor = model.load(device, job.precision)

    def ready(self) -> None:
        """Return once the model is loaded."""

    def predict(self, chunk: InputChunk, key: str) -> Iterator[int | LedgerEntry]:
        """Run :func:`predict_chunk` with this worker's replica."""
        yield from predict_chunk(self.predictor, chunk, self.job, key)


def predict_chunk(
    predictor: Predictor, chunk: InputChunk, job: InferenceJob, key: str
) -> Iterator[int | LedgerEntry]:
    """Predict on one chunk, write its output file, then its ledger entry.

    Yields:
        The number of images predicted since the last number, about once a second; the ledger entry
        at last.

    Raises:
        CountMismatchError: the chunk did not contain as many images as planned.
    """
    file = DetectionsFile(output_url(job.predictions_url, chunk.name))
    images = failed = objects = 0
    reported, reported_s = 0, time.monotonic()
    for prediction in predict_images(predictor, read_images(chunk), job.batch):
        row = detection_row(prediction, predictor, job.score_threshold)
        file.add(replace(row, model=job.model_source, model_digest=job.model_digest))
        images, failed = images + 1, failed + (row.error is not None)
        objects += len(row.scores)
        if time.monotonic() - reported_s >= REPORT_INTERVAL_S:
            yield images - reported
            reported, reported_s = images, time.monotonic()
    if images != chunk.images:
        raise CountMismatchError(
            f"{chunk.folder_url} {chunk.name}: {images} images read, {chunk.images} expected. "
            "Did the input change? Start the job again."
        )
    entry = LedgerEntry(
        name=chunk.name,
        key=key,
        images=images,
        failed=failed,
        objects=objects,
        size=file.write(),
        model=job.model_source,
        files=chunk.files,
        versions=chunk.versions,
        image_ids=chunk.image_ids,
        id_range=chunk.id_range,
        source_ids=chunk.source_ids,
        has_given_ids=chunk.has_given_ids,
        schema=SCHEMA_VERSION,
        model_digest=job.model_digest,
        score_threshold=job.score_threshold,
        precision=job.precision,
    )
    write_entry(job.predictions_url, entry)
    yield images - reported
    yield entry.counts()
