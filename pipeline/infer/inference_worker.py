"""Predict on one chunk with one model replica; write its output file and ledger entry."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from model import Predictor
from model.config.settings import Precision
from pipeline.infer.detection_files import write_detection_rows
from pipeline.infer.detection_rows import DetectionRow, detection_row
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
        bit_depth: significant bits of images with more than 8, in a folder of images; None follows
            the files.
    """

    predictions_url: str
    batch: int
    score_threshold: float
    model_source: str
    precision: Precision = "fp32"
    bit_depth: int | None = None

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
    rows: list[DetectionRow] = []
    reported, reported_s = 0, time.monotonic()
    for prediction in predict_images(predictor, read_images(chunk), job.batch):
        rows.append(detection_row(prediction, predictor, job.score_threshold))
        if time.monotonic() - reported_s >= REPORT_INTERVAL_S:
            yield len(rows) - reported
            reported, reported_s = len(rows), time.monotonic()
    if len(rows) != chunk.images:
        raise CountMismatchError(
            f"{chunk.folder_url} {chunk.name}: {len(rows)} images read, {chunk.images} expected. "
            "Did the input change? Start the job again."
        )
    entry = LedgerEntry(
        name=chunk.name,
        key=key,
        images=len(rows),
        failed=sum(row.error is not None for row in rows),
        objects=sum(len(row.scores) for row in rows),
        size=write_detection_rows(output_url(job.predictions_url, chunk.name), rows),
        model=job.model_source,
        files=chunk.files,
        versions=chunk.versions,
        image_ids=chunk.image_ids,
        id_range=chunk.id_range,
    )
    write_entry(job.predictions_url, entry)
    yield len(rows) - reported
    yield entry.counts()
