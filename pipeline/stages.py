"""The whole pipeline as Ray tasks: shards -> training -> evaluation -> registration -> inference.

Each stage is a Ray task that waits for the stages it depends on. Its key is a hash of its
configuration sections and of the outcomes of those stages. A stage writes
``{output}/stages/NAME/_SUCCESS.json`` last and is skipped if that file exists with the same key. To
resume a chain, submit it again; a changed setting reruns only the stages that depend on it.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayTaskError

from pipeline import storage
from pipeline.cluster import prepare_environment
from pipeline.config import RunConfig, digest_of
from pipeline.console import show_worker_logs
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.registration import check_champion_metric, register_evaluated
from pipeline.infer.inference import run_inference
from pipeline.ingest.splits import prepare_split
from pipeline.output_layout import Split, from_portable, split_shards_url, to_portable
from pipeline.storage.records import parse_record
from pipeline.train.driver import run_training

logger = logging.getLogger(__name__)

Outcome = dict[str, Any]
"""The outputs of a stage as plain values: URLs, digests, counts and metrics.

Outcomes are hashed into the keys of later stages: if a field is renamed, the finished stages of old
runs run again.
"""


@dataclass(frozen=True)
class Stage:
    """One job of the chain.

    Args:
        name: name of the stage and of its folder.
        sections: configuration sections; a change in one of them makes the stage run again.
        depends_on: the stages whose outcomes it needs.
        run: does the work.
        files_key: key of the outcome that holds the URL of the stage's files; None if its result
            is not in files but in the model registry.
        always_runs: whether the stage runs even if it is finished, because it checks its sources
            itself and is quick if nothing changed.
    """

    name: str
    sections: tuple[str, ...]
    depends_on: tuple[str, ...]
    run: Callable[[RunConfig, Mapping[str, Outcome]], Outcome]
    files_key: str | None
    always_runs: bool = False


@dataclass(frozen=True)
class StageRecord:
    """A finished stage. Field names are keys of ``_SUCCESS.json``."""

    stage: str
    key: str
    outcome: Outcome
    seconds: float
    skipped: bool = False


def run_chain(config: RunConfig) -> Iterator[StageRecord]:
    """Run every unfinished stage; stages that do not depend on each other run in parallel.

    Yields:
        The stages' records in the order of ``STAGES``, each as soon as it is available.

    Raises:
        ConfigError: a setting of a late stage is wrong.
        Exception: the exception of the first stage that failed; finished stages are kept.
    """
    check_champion_metric(config)
    # Reserves no CPU: a stage waits for workers that it starts, and they may need all CPUs.
    task = ray.remote(num_cpus=0, max_retries=0)(_run_stage)
    running: dict[str, Any] = {}
    for stage in STAGES:
        upstream = [running[name] for name in stage.depends_on]
        # Ray shows the name of a task before each line of its log.
        named = task.options(name=stage.name)
        running[stage.name] = named.remote(stage.name, config, *upstream)
    for stage in STAGES:
        try:
            record: StageRecord = ray.get(running[stage.name])
        except RayTaskError as failure:
            # The exception of the stage itself; Ray's holds it together with its traceback.
            raise failure.cause from failure
        yield record


def _run_stage(name: str, config: RunConfig, *upstream: StageRecord) -> StageRecord:
    prepare_environment()
    stage = next(stage for stage in STAGES if stage.name == name)
    key = _stage_key(stage, config, upstream)
    success_url = storage.join(config.output, "stages", name, "_SUCCESS.json")
    finished = _finished_record(success_url, key, config.output)
    if finished is not None and not stage.always_runs and _files_exist(stage, finished.outcome):
        return replace(finished, skipped=True)
    started = time.monotonic()
    with show_worker_logs():
        outcome = stage.run(config, {record.stage: record.outcome for record in upstream})
    if finished is not None and _facts(outcome) == _facts(finished.outcome):
        # Later keys hash the summary too, so the finished record keeps its text, even an older one.
        return replace(finished, skipped=True)
    seconds = round(time.monotonic() - started, 1)
    record = StageRecord(name, key, outcome, seconds)
    storage.write_json(success_url, to_portable(asdict(record), config.output))
    return record


def _facts(outcome: Outcome) -> Outcome:
    """Return an outcome without its summary, a text for people."""
    return {key: value for key, value in outcome.items() if key != "summary"}


def _files_exist(stage: Stage, outcome: Outcome) -> bool:
    """Return whether the stage's files still exist; someone may have deleted them."""
    return stage.files_key is None or storage.exists(outcome[stage.files_key])


def _stage_key(stage: Stage, config: RunConfig, upstream: tuple[StageRecord, ...]) -> str:
    settings = config.model_dump(mode="json", include=set(stage.sections))
    inputs = {record.stage: to_portable(record.outcome, config.output) for record in upstream}
    return digest_of({"stage": stage.name, "settings": settings, "inputs": inputs})


def _finished_record(success_url: str, key: str, output: str) -> StageRecord | None:
    if not storage.exists(success_url):
        return None
    try:
        document = from_portable(storage.read_json(success_url), output)
        record = parse_record(document, StageRecord, success_url, "the stage runs again")
    except storage.DamagedRecordError as error:
        logger.warning("%s", error)
        return None
    return record if record.key == key else None


def _prepare(split: Split) -> Callable[[RunConfig, Mapping[str, Outcome]], Outcome]:
    def prepare(config: RunConfig, _upstream: Mapping[str, Outcome]) -> Outcome:
        manifest = prepare_split(config, split)
        return {
            "shards": split_shards_url(config, split),
            "digest": manifest.digest,
            "summary": manifest.summary(),
        }

    return prepare


def _train(config: RunConfig, _upstream: Mapping[str, Outcome]) -> Outcome:
    return asdict(run_training(config))


def _evaluate(config: RunConfig, upstream: Mapping[str, Outcome]) -> Outcome:
    trained = upstream["train"]
    return asdict(run_evaluation(config, trained["checkpoint_url"], trained["run_id"]))


def _register(config: RunConfig, _upstream: Mapping[str, Outcome]) -> Outcome:
    return asdict(register_evaluated(config))


def _infer(config: RunConfig, _upstream: Mapping[str, Outcome]) -> Outcome:
    return asdict(run_inference(config))


STAGES = (
    Stage("train_shards", ("data", "seed"), (), _prepare("train"), "shards", always_runs=True),
    Stage("val_shards", ("data", "seed"), (), _prepare("val"), "shards", always_runs=True),
    Stage(
        "train",
        ("seed", "model", "data", "train", "track"),
        ("train_shards", "val_shards"),
        _train,
        "checkpoint_url",
    ),
    Stage("evaluate", ("evaluate",), ("val_shards", "train"), _evaluate, "report_url"),
    Stage("register", ("track",), ("evaluate",), _register, None),
    Stage("infer", ("infer", "track"), ("val_shards", "register"), _infer, "output_url"),
)
