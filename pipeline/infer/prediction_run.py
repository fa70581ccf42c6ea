"""All pieces of an input through model replicas: pulled one by one, retried when a replica dies."""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError

from pipeline.infer.inputs import InputPiece
from pipeline.infer.ledger import LedgerEntry, finished_entries, piece_key, remove_stale
from pipeline.infer.piece_worker import (
    CountMismatchError,
    PieceWorker,
    PredictionJob,
    predict_piece,
)
from pipeline.infer.predictor import ModelFiles

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # deaths of replicas over one piece; more is no accident
NOTICE_S = 60.0


@dataclass(frozen=True)
class PieceOutcome:
    """The ledger's entry of a piece, and whether an earlier run had finished it."""

    entry: LedgerEntry
    skipped: bool


def predict_pieces(
    pieces: Sequence[InputPiece], model: ModelFiles, job: PredictionJob, workers: int
) -> list[PieceOutcome]:
    """Predict every piece that is not finished yet, on Ray where a cluster is joined.

    Args:
        pieces: the whole input.
        model: the detector's files.
        job: where the output goes and how.
        workers: replicas wanted; no more are started than the cluster can hold.

    Returns:
        One outcome per piece, in order.

    Raises:
        CountMismatchError: the outputs do not hold as many rows as the inputs have images.
        RuntimeError: replicas kept dying over a piece.
    """
    digest = model.digest
    keys = {piece.name: piece_key(piece, digest, job.least_score) for piece in pieces}
    if stale := remove_stale(job.folder, list(keys)):
        logger.warning("removed %d outputs whose input is gone: %s", len(stale), stale[:5])
    entries = finished_entries(job.folder, keys)
    skipped = set(entries)
    todo = [piece for piece in pieces if piece.name not in entries]
    if skipped:
        logger.info("%d of %d pieces are finished already", len(skipped), len(pieces))
    run = _predict_on_cluster if ray.is_initialized() else _predict_here
    started, images = time.monotonic(), 0
    for entry in run(todo, keys, model, job, workers) if todo else ():
        entries[entry.name] = entry
        images += entry.images
        logger.info(
            "%s: %d images, %d failed, %d objects  (%d/%d pieces, %.1f images/s)",
            entry.name,
            entry.images,
            entry.failed,
            entry.objects,
            len(entries),
            len(pieces),
            images / max(time.monotonic() - started, 1e-9),
        )
    _check_counts(pieces, entries)
    return [PieceOutcome(entries[piece.name], piece.name in skipped) for piece in pieces]


def _check_counts(pieces: Sequence[InputPiece], entries: dict[str, LedgerEntry]) -> None:
    wrong = [
        f"{piece.name}: {entries[piece.name].images if piece.name in entries else 'no'} rows "
        f"for {piece.images} images"
        for piece in pieces
        if piece.name not in entries or entries[piece.name].images != piece.images
    ]
    if wrong:
        raise CountMismatchError(f"{len(wrong)} pieces do not add up: {'; '.join(wrong[:5])}")


def _predict_here(
    todo: Sequence[InputPiece],
    keys: dict[str, str],
    model: ModelFiles,
    job: PredictionJob,
    workers: int,
) -> Iterator[LedgerEntry]:
    detector = model.load("cuda" if torch.cuda.is_available() else "cpu")
    for piece in todo:
        yield predict_piece(detector, piece, job, keys[piece.name])


def _predict_on_cluster(
    todo: Sequence[InputPiece],
    keys: dict[str, str],
    model: ModelFiles,
    job: PredictionJob,
    workers: int,
) -> Iterator[LedgerEntry]:
    start_replica, replicas = _replica_maker(model, job, min(workers, len(todo)))
    waiting, attempts, failed_starts = deque(todo), Counter[str](), 0
    # What each replica is at: a piece, or None while it loads the model.
    running: dict[Any, tuple[Any, InputPiece | None]] = {}
    try:
        for _ in range(replicas):
            actor = start_replica()
            running[actor.ready.remote()] = (actor, None)
        while waiting or any(piece is not None for _, piece in running.values()):
            done, _ = ray.wait(list(running), num_returns=1, timeout=NOTICE_S)
            if not done:
                logger.info("waiting for %d replicas; %d pieces to do", len(running), len(waiting))
                continue
            actor, piece = running.pop(done[0])
            try:
                entry = ray.get(done[0])
            except RayActorError as error:
                if piece is None:
                    failed_starts += 1
                else:
                    attempts[piece.name] += 1
                    waiting.appendleft(piece)
                _judge_death(piece, attempts, failed_starts, error)
                actor = start_replica()
                running[actor.ready.remote()] = (actor, None)
                continue
            if waiting:
                following = waiting.popleft()
                running[actor.predict.remote(following, keys[following.name])] = (actor, following)
            else:
                ray.kill(actor)
            if piece is not None:
                yield entry
    finally:
        for actor, _ in running.values():
            ray.kill(actor)


def _replica_maker(model: ModelFiles, job: PredictionJob, wanted: int) -> tuple[Any, int]:
    """A function that starts one replica, and how many the cluster can hold of those wanted."""
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    replicas = max(1, min(wanted, gpus or cpus))
    if replicas < wanted:
        logger.warning("the cluster holds %d replicas, not the %d asked for", replicas, wanted)
    options = {"num_gpus": 1 if gpus else 0, "num_cpus": 1, "max_restarts": 0}
    worker_class: Any = ray.remote(**options)(PieceWorker)
    stored_model = ray.put(model)
    device = "cuda" if gpus else "cpu"
    threads = max(1, cpus // replicas)
    return lambda: worker_class.remote(stored_model, job, device, threads), replicas


def _judge_death(
    piece: InputPiece | None, attempts: Counter[str], failed_starts: int, error: RayActorError
) -> None:
    if piece is None:
        if failed_starts >= MAX_ATTEMPTS:
            raise RuntimeError(f"no replica could load the model: {error}") from error
        logger.warning("a replica died while loading the model; starting another: %s", error)
        return
    if attempts[piece.name] >= MAX_ATTEMPTS:
        raise RuntimeError(
            f"{piece.name}: {MAX_ATTEMPTS} replicas died over it ({error}). Out of memory? "
            "Try a smaller infer.batch; finished pieces stand."
        ) from error
    logger.warning(
        "a replica died over %s (attempt %d); retrying it elsewhere",
        piece.name,
        attempts[piece.name],
    )
