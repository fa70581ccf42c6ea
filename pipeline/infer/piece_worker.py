"""One piece of the input through one replica of the model, to a file and a ledger entry."""

import os
from dataclasses import dataclass

import torch

from model import Detector
from pipeline.infer.inputs import InputPiece, read_images
from pipeline.infer.ledger import LedgerEntry, output_url, write_entry
from pipeline.infer.prediction_rows import row_of, write_rows
from pipeline.infer.predictor import ModelFiles, predict_images


class CountMismatchError(RuntimeError):
    """Images went in that did not come out."""


@dataclass(frozen=True)
class PredictionJob:
    """What is the same for every piece.

    Args:
        folder: URL of the output files.
        batch: images per forward pass.
        least_score: detections below it are left out.
        model_source: where the weights came from, for the ledger.
    """

    folder: str
    batch: int
    least_score: float
    model_source: str


class PieceWorker:
    """One replica of the model.

    Args:
        model: the detector's files.
        job: what to do with each piece.
        device: "cpu" or "cuda".
        threads: CPU threads of a forward pass.
    """

    def __init__(self, model: ModelFiles, job: PredictionJob, device: str, threads: int) -> None:
        if device == "cpu":
            torch.set_num_threads(min(threads, os.cpu_count() or 1))
        self.job = job
        self.detector = model.load(device)

    def ready(self) -> None:
        """Returns when the model is loaded."""

    def predict(self, piece: InputPiece, key: str) -> LedgerEntry:
        """Predict one piece, write its file, then its ledger entry."""
        return predict_piece(self.detector, piece, self.job, key)


def predict_piece(
    detector: Detector, piece: InputPiece, job: PredictionJob, key: str
) -> LedgerEntry:
    """Predict one piece, write its file, then its ledger entry.

    Raises:
        CountMismatchError: the piece did not give as many images as it was said to have.
    """
    rows = [
        row_of(prediction, detector, job.least_score)
        for prediction in predict_images(detector, read_images(piece), job.batch)
    ]
    if len(rows) != piece.images:
        raise CountMismatchError(
            f"{piece.folder} {piece.name}: {len(rows)} images read, {piece.images} expected. "
            "Did the input change? Start again."
        )
    entry = LedgerEntry(
        name=piece.name,
        key=key,
        images=len(rows),
        failed=sum(row.error is not None for row in rows),
        objects=sum(len(row.scores) for row in rows),
        size=write_rows(output_url(job.folder, piece.name), rows),
        model=job.model_source,
    )
    write_entry(job.folder, entry)
    return entry
