"""Predict on many chunks: workers pull them one by one, and a worker that dies is replaced."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError

from model.inference.precision import check_precision
from pipeline.infer.cluster_use import Workers, count_replicas
from pipeline.infer.inference_worker import (
    CountMismatchError,
    InferenceError,
    InferenceJob,
    InferenceWorker,
    predict_chunk,
)
from pipeline.infer.inputs import InputChunk
from pipeline.infer.ledger import LedgerEntry
from pipeline.infer.model_files import ModelFiles
from pipeline.infer.output_cleanup import clean_output
from pipeline.infer.plan import Plan, plan_chunks
from pipeline.operator_backend import warn_if_not_compiled
from pipeline.progress import show_progress

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # so many deaths on one chunk, or while loading the model, end the job


@dataclass(frozen=True)
class ChunkOutcome:
    """The ledger entry of a chunk, and whether an earlier run had finished the chunk."""

    entry: LedgerEntry
    skipped: bool


def predict_chunks(
    chunks: Sequence[InputChunk], model: ModelFiles, job: InferenceJob, workers: Workers
) -> list[ChunkOutcome]:
    """Predict on every unfinished chunk of an input that is known from the start.

    Args:
        chunks: the whole input.
        model: the detector's files.
        job: the settings that all chunks share.
        workers: requested number of workers; limited to what the cluster can hold. "auto": one
            per GPU of the cluster, or one.

    Returns:
        One outcome per chunk, in order.

    Raises:
        CountMismatchError: an output does not have one row per image of its chunk.
        InferenceError: workers kept dying on a chunk or while loading the model.
    """
    plan = plan_chunks(chunks, job.predictions_url, job.key_of(model))
    outcomes = {each.entry.name: each for each in predict_plan(plan, model, job, workers)}
    wrong = [
        f"{chunk.name}: {outcomes[chunk.name].entry.images if chunk.name in outcomes else 'no'} "
        f"rows for {chunk.images} images"
        for chunk in chunks
        if chunk.name not in outcomes or outcomes[chunk.name].entry.images != chunk.images
    ]
    if wrong:
        raise CountMismatchError(
            f"the outputs of {len(wrong)} chunks do not have one row per image: "
            f"{'; '.join(wrong[:5])}"
        )
    return [outcomes[chunk.name] for chunk in chunks]


def predict_plan(
    plan: Plan, model: ModelFiles, job: InferenceJob, workers: Workers
) -> list[ChunkOutcome]:
    """Clean the output folder, then predict on the unfinished chunks of a plan.

    Ray workers predict if a cluster is joined, else this process. The arguments and errors are
    those of `predict_chunks`.

    Returns:
        One outcome per chunk, in the order of the names, without the names of the files.
    """
    finished = clean_output(plan, job.predictions_url, job.bit_depth, job.key_of(model))
    outcomes = [ChunkOutcome(entry, skipped=True) for entry in finished]
    if finished:
        total = len(finished) + plan.chunks
        logger.info("%d of %d chunks are already finished", len(finished), total)
    predict = _predict_on_cluster if ray.is_initialized() else _predict_in_process
    if plan.chunks:
        logger.info("loading the model")
        with show_progress("predicting", plan.images, "images") as progress:
            for result in predict(plan, model, job, workers):
                if isinstance(result, LedgerEntry):
                    outcomes.append(ChunkOutcome(result, skipped=False))
                elif progress.done == result == 0:
                    progress.restart_clock()  # the model is loaded
                else:
                    progress.add(result)
    return sorted(outcomes, key=lambda outcome: (len(outcome.entry.name), outcome.entry.name))


def _predict_in_process(
    plan: Plan, model: ModelFiles, job: InferenceJob, workers: Workers
) -> Iterator[int | LedgerEntry]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    warn_if_not_compiled(torch.device(device))
    predictor, key_of = model.load(device, job.precision), job.key_of(model)
    yield 0
    for chunk in plan.unfinished():
        yield from predict_chunk(predictor, chunk, job, key_of(chunk))


def _predict_on_cluster(
    plan: Plan, model: ModelFiles, job: InferenceJob, workers: Workers
) -> Iterator[int | LedgerEntry]:
    """Yield what `predict_chunk` yields, and 0 for each worker that has loaded the model."""
    resources = ray.cluster_resources()
    requested = min(count_replicas(workers, resources), plan.chunks)
    start_worker, count = _worker_factory(model, job, requested, resources)
    waiting, deaths, failed_starts = _Waiting(plan.unfinished()), Counter[str](), 0
    key_of = job.key_of(model)
    # Pending call -> its worker and the chunk it works on; None while it loads the model.
    running: dict[Any, tuple[Any, InputChunk | None]] = {}
    predicted = Counter[str]()  # images of unfinished chunks
    try:
        for _ in range(count):
            worker = start_worker()
            running[worker.ready.remote()] = (worker, None)
        while waiting or any(chunk is not None for _, chunk in running.values()):
            [call], _ = ray.wait(list(running), num_returns=1)
            worker, chunk = running.pop(call)
            try:
                result = ray.get(call if chunk is None else next(call))
            except RayActorError as error:
                if chunk is None:
                    failed_starts += 1
                else:
                    deaths[chunk.name] += 1
                    waiting.put_back(chunk)
                    yield -predicted.pop(chunk.name, 0)
                _warn_or_give_up(chunk, deaths, failed_starts, error)
                worker = start_worker()
                running[worker.ready.remote()] = (worker, None)
                continue
            if chunk is not None and not isinstance(result, LedgerEntry):
                predicted[chunk.name] += result
                running[call] = (worker, chunk)
            elif (following := waiting.take()) is not None:
                stream = worker.predict.options(num_returns="streaming")
                running[stream.remote(following, key_of(following))] = (worker, following)
            else:
                ray.kill(worker)
            yield 0 if chunk is None else result
    finally:
        for worker, _ in running.values():
            ray.kill(worker)


class _Waiting:
    """Chunks that no worker has: those of dead workers first, then the rest one by one."""

    def __init__(self, chunks: Iterator[InputChunk]) -> None:
        self._chunks = chunks
        self._again: deque[InputChunk] = deque()

    def __bool__(self) -> bool:
        if not self._again:
            self._again.extend(islice(self._chunks, 1))
        return bool(self._again)

    def put_back(self, chunk: InputChunk) -> None:
        self._again.appendleft(chunk)

    def take(self) -> InputChunk | None:
        return self._again.popleft() if self else None


def _worker_factory(
    model: ModelFiles, job: InferenceJob, requested: int, resources: Mapping[str, float]
) -> tuple[Callable[[], Any], int]:
    """Return a function that starts one worker, and how many workers to start.

    The number is limited to the cluster's GPUs, or to its CPUs if it has no GPU.

    Raises:
        ValueError: their device cannot compute in the precision of the job.
    """
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    count = max(1, min(requested, gpus or cpus))
    if count < requested:
        logger.warning("the cluster can hold only %d of the %d requested workers", count, requested)
    options = {"num_gpus": 1 if gpus else 0, "num_cpus": 1, "max_restarts": 0}
    worker_class: Any = ray.remote(**options)(InferenceWorker)
    stored_model = ray.put(model)
    device = "cuda" if gpus else "cpu"
    check_precision(job.precision, torch.device(device))
    threads = max(1, cpus // count)
    return lambda: worker_class.remote(stored_model, job, device, threads), count


def _warn_or_give_up(
    chunk: InputChunk | None, deaths: Counter[str], failed_starts: int, error: RayActorError
) -> None:
    """Log that a worker died; raise InferenceError after ``MAX_ATTEMPTS``."""
    if chunk is None:
        if failed_starts >= MAX_ATTEMPTS:
            raise InferenceError(f"no worker could load the model: {error}") from error
        logger.warning("a worker died while loading the model; starting another: %s", error)
        return
    if deaths[chunk.name] >= MAX_ATTEMPTS:
        raise InferenceError(
            f"{chunk.name}: {MAX_ATTEMPTS} workers died while predicting on it ({error}). Out of "
            "memory? Try a smaller infer.batch; finished chunks are kept."
        ) from error
    logger.warning(
        "a worker died while predicting on %s (attempt %d); retrying with another worker",
        chunk.name,
        deaths[chunk.name],
    )
