"""The whole chain as Ray tasks: shards -> training -> evaluation -> registration -> inference.

Each stage is a Ray task that waits for the stages before it. It is keyed by the hash of the
settings it reads and of what those stages left behind, and writes
``{output}/stages/NAME/_SUCCESS.json`` last; where that stands with the same key, the stage is
skipped. So one resumes a chain by submitting it again, and a changed setting reruns only what
depends on it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayTaskError

from pipeline import storage
from pipeline.cluster import prepare_environment
from pipeline.config import RunConfig, digest_of
from pipeline.evaluate.evaluation import run_evaluation
from pipeline.evaluate.registration import register_evaluated
from pipeline.infer.inference import run_inference
from pipeline.ingest.splits import Split, prepare_split, split_shards_url
from pipeline.train.driver import run_training

Outcome = dict[str, Any]
"""What a stage left behind, as plain values: URLs, digests and figures."""


@dataclass(frozen=True)
class Stage:
    """One job of the chain.

    Args:
        name: also the name of its folder.
        reads: sections of the configuration whose change makes it run again.
        after: the stages whose outcomes it needs.
        run: does the work.
        leaves: key of the outcome that holds the URL of its files; None where a service keeps them.
        remembered: False for a stage that looks at its sources itself each time, and is quick to
            see that nothing changed.
    """

    name: str
    reads: tuple[str, ...]
    after: tuple[str, ...]
    run: Callable[[RunConfig, Mapping[str, Outcome]], Outcome]
    leaves: str | None
    remembered: bool = True


@dataclass(frozen=True)
class StageRecord:
    """A finished stage, as ``_SUCCESS.json`` holds it."""

    stage: str
    key: str
    outcome: Outcome
    seconds: float
    skipped: bool = False


def run_chain(config: RunConfig) -> Iterator[StageRecord]:
    """Run every stage that does not stand yet; stages that need not wait for each other overlap.

    Yields:
        The stages' records in the order of ``STAGES``, each as soon as it is there.

    Raises:
        Exception: whatever the first failing stage raised; the finished ones stand.
    """
    # No CPUs of its own: a stage waits for the workers that it starts, which may want them all.
    task = ray.remote(num_cpus=0, max_retries=0)(_run_stage)
    running: dict[str, Any] = {}
    for stage in STAGES:
        upstream = [running[name] for name in stage.after]
        running[stage.name] = task.remote(stage.name, config, *upstream)
    for stage in STAGES:
        try:
            record: StageRecord = ray.get(running[stage.name])
        except RayTaskError as failure:
            # The stage's own exception, not one that wraps the text of its traceback.
            raise failure.cause from failure
        yield record


def _run_stage(name: str, config: RunConfig, *upstream: StageRecord) -> StageRecord:
    prepare_environment()
    stage = next(stage for stage in STAGES if stage.name == name)
    key = _stage_key(stage, config, upstream)
    success_url = storage.join(config.output, "stages", name, "_SUCCESS.json")
    standing = _standing_record(success_url, key)
    if standing is not None and stage.remembered and _files_stand(stage, standing.outcome):
        return replace(standing, skipped=True)
    started = time.monotonic()
    outcome = stage.run(config, {record.stage: record.outcome for record in upstream})
    seconds = round(time.monotonic() - started, 1)
    record = StageRecord(name, key, outcome, seconds)
    storage.write_json(success_url, asdict(record))
    unchanged = standing is not None and standing.outcome == outcome
    return replace(record, skipped=unchanged)


def _files_stand(stage: Stage, outcome: Outcome) -> bool:
    """Whether what the stage left is still there, and was not deleted by hand."""
    return stage.leaves is None or storage.exists(outcome[stage.leaves])


def _stage_key(stage: Stage, config: RunConfig, upstream: tuple[StageRecord, ...]) -> str:
    settings = config.model_dump(mode="json", include=set(stage.reads))
    inputs = {record.stage: record.outcome for record in upstream}
    return digest_of({"stage": stage.name, "settings": settings, "inputs": inputs})


def _standing_record(success_url: str, key: str) -> StageRecord | None:
    if not storage.exists(success_url):
        return None
    record = StageRecord(**storage.read_json(success_url))
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
    Stage("train_shards", ("data", "seed"), (), _prepare("train"), "shards", remembered=False),
    Stage("val_shards", ("data", "seed"), (), _prepare("val"), "shards", remembered=False),
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
