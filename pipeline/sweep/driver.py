"""The sweep job: run trials in Ray Tune, stop weak ones early, write the best trial's config.

Everything is written to ``{output}/sweep``: Tune's state, ``trials/<id>`` with each trial's
training, ``sweep.json`` and, at the end, ``best.yaml`` for ``train.py``. Submitting the same job
again continues the sweep, or returns at once if it is finished.
"""

import functools
import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

from mlflow import MlflowClient
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import BasicVariantGenerator

from model.config.settings import ConfigError
from pipeline import storage
from pipeline.cluster import ClusterResources, connect
from pipeline.config import RunConfig, config_digest, to_yaml
from pipeline.evaluate.registration import measured_metrics
from pipeline.output_layout import from_portable, to_portable
from pipeline.storage.exclusive_use import exclusive_use
from pipeline.storage.records import parse_record
from pipeline.sweep.results import TrialSummary, best_trial, summarize_trial
from pipeline.sweep.search_space import check_space, distributions
from pipeline.sweep.stopped_trials import StoppedTrials, wait_and_remove_groups
from pipeline.sweep.trial import (
    best_config,
    reported_name,
    run_trial,
    sweep_folder,
    trial_folder,
)
from pipeline.sweep.trial_log import TrialLog
from pipeline.track.metric_sink import MetricSink
from pipeline.track.mlflow_run import TrackedRun, open_run
from pipeline.train.placement_group import PLACEMENT_GROUP
from pipeline.train.run_record import read_run_record
from pipeline.train.training_length import planned_steps
from pipeline.train.worker_count import settle_workers
from pipeline.train.worker_resources import scaling_config

logger = logging.getLogger(__name__)

# The process of a trial only starts and watches workers. If it requested nothing, Tune would
# reserve a CPU for it, and the workers on a small machine would wait for that CPU forever.
TRIAL_RESOURCES = {"memory": 2**20}
REMOVE_GROUPS_TIMEOUT_S = 60.0


class SweepError(RuntimeError):
    """No trial succeeded, or the output holds another sweep; the message says what to do."""


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    Args:
        best_config_url: YAML file for ``train.py``.
        best_values: the best trial's values by dotted key.
        best_metrics: its metrics.
        trials: all trials.
        run_id: the sweep's MLflow run.
    """

    best_config_url: str
    best_values: dict[str, Any]
    best_metrics: dict[str, float]
    trials: tuple[TrialSummary, ...]
    run_id: str


@dataclass(frozen=True)
class SweepRecord:
    """The content of ``sweep.json``.

    Args:
        config_digest: digest of the sweep's settings.
        run_id: the sweep's MLflow run.
        result: of the finished sweep; None until then.
    """

    config_digest: str
    run_id: str
    result: SweepResult | None = None


def run_sweep(config: RunConfig) -> SweepResult:
    """Run the search of ``config.sweep``; continue an interrupted one, or return a finished one.

    Raises:
        ConfigError: the search space has keys or values that are not valid in a config, or
            ``sweep.metric`` is not measured.
        SweepError: no trial succeeded, or the output holds another sweep.
        TrainingError: the cluster cannot hold one trial.
        FolderInUseError: another job runs the sweep.
    """
    check_space(config)
    _check_metric(config)
    with exclusive_use(sweep_folder(config), "sweep"):
        return _run_sweep(config)


def _run_sweep(config: RunConfig) -> SweepResult:
    record = _read_record(config)
    # A sweep that is moved to another output folder stays the same sweep.
    digest = config_digest(config.model_copy(update={"output": ""}))
    if record is not None and record.config_digest != digest:
        raise SweepError(
            f"{config.output} holds a sweep with other settings; choose another output"
        )
    if record is not None and record.result is not None:
        logger.info("the sweep in %s is finished; nothing to do", config.output)
        return record.result

    resources = connect()
    train = settle_workers(config.train, resources, is_trial=True)
    settled = config.model_copy(update={"train": train})
    concurrent = concurrent_trials(settled, resources)
    with open_run(config, "sweep", run_id=record.run_id if record else None) as run:
        record = SweepRecord(digest, run.run_id)
        _write_record(config, record)
        logger.info("%d trials, %d at a time", config.sweep.trials, concurrent)
        grid = _tuner(settled, run, concurrent).fit()
        _remove_placement_groups(grid)
        trials = tuple(summarize_trial(result, config) for result in grid)
        _end_stopped_runs(config, run, trials)
        result = _conclude(config, run, trials)
        _write_record(config, replace(record, result=result))
    return result


def _read_record(config: RunConfig) -> SweepRecord | None:
    url = _record_url(config)
    if not storage.exists(url):
        return None
    remedy = "rename it, and the sweep continues with the trials that Ray Tune has recorded"
    return parse_record(
        from_portable(storage.read_json(url), config.output), SweepRecord, url, remedy
    )


def _write_record(config: RunConfig, record: SweepRecord) -> None:
    storage.write_json(_record_url(config), to_portable(asdict(record), config.output))


def _record_url(config: RunConfig) -> str:
    return storage.join(sweep_folder(config), "sweep.json")


def _check_metric(config: RunConfig) -> None:
    metric, names = config.sweep.metric, measured_metrics(config.model)
    if not metric.startswith("train/") and metric.removeprefix("val/") not in names:
        raise ConfigError(
            [f"sweep.metric: {metric} is not measured for this detector; use {names[0]}"]
        )


def concurrent_trials(config: RunConfig, resources: ClusterResources) -> int:
    """Return how many trials fit into the cluster at once, at most ``sweep.max_concurrent``.

    Raises:
        TrainingError: not even one fits.
    """
    needed = scaling_config(config, resources).total_resources
    fitting = [int(resources.cpus // needed["CPU"])] if needed.get("CPU") else []
    if needed.get("GPU"):
        fitting.append(int(resources.gpus // needed["GPU"]))
    limit = max(1, min(fitting, default=1))
    return min(limit, config.sweep.max_concurrent or limit, config.sweep.trials)


def _tuner(config: RunConfig, run: TrackedRun, concurrent: int) -> tune.Tuner:
    """Build a new search, or restore the one that was interrupted in this output."""
    trainable = tune.with_resources(
        functools.partial(run_trial, config=config, parent_run_id=run.run_id), TRIAL_RESOURCES
    )
    store, path = storage.filesystem(sweep_folder(config))
    space = distributions(config.sweep.space)
    if tune.Tuner.can_restore(f"{path}/tune", storage_filesystem=store):
        return tune.Tuner.restore(
            f"{path}/tune",
            trainable=trainable,
            restart_errored=True,
            param_space=space,
            storage_filesystem=store,
        )
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=reported_name(config.sweep.metric),
            mode=config.sweep.mode,
            num_samples=config.sweep.trials,
            search_alg=BasicVariantGenerator(max_concurrent=concurrent, random_state=config.seed),
            scheduler=early_stopping(config),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=path,
            storage_filesystem=store,
            callbacks=[StoppedTrials(), TrialLog(config.sweep.trials)],
        ),
    )


def early_stopping(config: RunConfig) -> ASHAScheduler:
    """Build ASHA (Li et al. 2020) over the images a trial has seen.

    Images rather than steps: trials may differ in batch size and, with scaled recipes, in steps.
    """
    train = config.train
    images = planned_steps(config) * train.global_batch
    return ASHAScheduler(
        time_attr="images_seen",
        max_t=images,
        grace_period=min(config.sweep.grace_steps * train.global_batch, images),
        reduction_factor=config.sweep.reduction_factor,
        # A trial ends by itself, after its last validation and checkpoint.
        stop_last_trials=False,
    )


def _remove_placement_groups(grid: tune.ResultGrid) -> None:
    """Remove the placement groups of the trials that were stopped last."""
    group_ids = {(result.metrics or {}).get(PLACEMENT_GROUP, "") for result in grid} - {""}
    if in_use := wait_and_remove_groups(group_ids, REMOVE_GROUPS_TIMEOUT_S):
        logger.warning("%d stopped trials still hold their CPUs", len(in_use))


def _end_stopped_runs(config: RunConfig, run: TrackedRun, trials: tuple[TrialSummary, ...]) -> None:
    """End the MLflow runs of stopped trials, whose processes were killed before they could."""
    client = MlflowClient(tracking_uri=run.uri)
    for trial in trials:
        record = read_run_record(trial_folder(config, trial.trial_id))
        if record is not None and trial.stopped_early:
            client.set_tag(record.run_id, "stopped_early", "true")
            client.set_terminated(record.run_id, "FINISHED")


def _conclude(config: RunConfig, run: TrackedRun, trials: tuple[TrialSummary, ...]) -> SweepResult:
    """Select the best trial, write its config, and log its metrics to the sweep's run."""
    metric = reported_name(config.sweep.metric)
    best = best_trial(trials, metric, config.sweep.mode)
    if best is None:
        errors = {trial.error for trial in trials if trial.error}
        reason = min(errors, default=f"no trial reported {metric}")
        raise SweepError(f"none of {len(trials)} trials succeeded; the first error: {reason}")
    url = storage.join(sweep_folder(config), "best.yaml")
    storage.write_bytes(url, to_yaml(best_config(config, best.values)).encode())
    sink = MetricSink(run.uri, run.run_id)
    sink.log(best.metrics, best.steps)
    sink.close()
    logger.info("best of %d trials: %s", len(trials), best.values)
    return SweepResult(url, best.values, best.metrics, trials, run.run_id)
