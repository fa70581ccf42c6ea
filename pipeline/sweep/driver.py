"""The sweep job: run trials in Ray Tune, end weak ones early, write the best trial's config.

Everything is written to ``{output}/sweep``: the ledger, ``trials/<id>`` with each trial's training,
``sweep.json`` and, at the end, the report and ``best.yaml`` for ``train.py``. Submitting the same
job again continues the sweep, extends it if ``sweep.trials`` has grown, or returns at once if it
is finished.
"""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlflow import MlflowClient

from pipeline import storage
from pipeline.cluster import connect
from pipeline.config import RunConfig, to_yaml
from pipeline.output_layout import split_shards_url
from pipeline.storage.exclusive_use import exclusive_use
from pipeline.stream.training_plan import read_training_manifest
from pipeline.sweep.clock import SweepClock
from pipeline.sweep.concurrency import concurrent_trials
from pipeline.sweep.ledger import TrialLedger, TrialRecord
from pipeline.sweep.ledger_callback import has_finished
from pipeline.sweep.proposals import trial_count
from pipeline.sweep.registration import register_trial
from pipeline.sweep.report import write_report
from pipeline.sweep.results import best_trial
from pipeline.sweep.search import run_search
from pipeline.sweep.sweep_check import check_sweep
from pipeline.sweep.sweep_record import (
    SweepError,
    SweepRecord,
    read_record,
    shared_digest,
    write_record,
)
from pipeline.sweep.trial import (
    best_config,
    forget_error,
    read_error,
    sweep_folder,
    trial_folder,
)
from pipeline.track.artifact_upload import UPLOAD_TIMEOUT_S
from pipeline.track.attempt import attempt
from pipeline.track.metric_sink import MetricSink
from pipeline.track.mlflow_run import TrackedRun, open_run
from pipeline.track.mlflow_store import TrackingError
from pipeline.track.send_unsent import send_unsent
from pipeline.track.unsent_run import STATUS, UnsentRun
from pipeline.train.run_record import read_run_record
from pipeline.train.start_checks import check_data
from pipeline.train.worker_count import settle_workers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    Args:
        best: the best trial.
        best_config_url: YAML file for ``train.py``.
        report_url: the report, a page in Markdown with plots beside it.
        trials: all trials, by number.
        unfinished: number of trials that are not done because ``sweep.max_hours`` are over.
        run_id: the sweep's MLflow run.
        registered: the version of the best trial's model, if it was registered.
    """

    best: TrialRecord
    best_config_url: str
    report_url: str
    trials: tuple[TrialRecord, ...]
    unfinished: int
    run_id: str
    registered: str | None = None

    @property
    def best_values(self) -> dict[str, Any]:
        """The best trial's values by dotted key; with the weights that it began with, if warm."""
        weights = {} if self.best.weights is None else {"train.weights": self.best.weights}
        return {**self.best.values, **weights}

    @property
    def best_metrics(self) -> dict[str, float]:
        """The best trial's last losses and validation metrics."""
        return self.best.metrics


def run_sweep(config: RunConfig) -> SweepResult:
    """Run the search of ``config.sweep``; continue, extend or return one that is there.

    Raises:
        ConfigError: the search space has keys or values that are not valid in a config, or
            ``sweep.metric`` is not measured.
        SweepError: no trial succeeded, or the output holds another sweep.
        FileNotFoundError: there are no training shards.
        TrainingError: the cluster cannot hold one trial, or the shards have other classes.
        FolderInUseError: another job runs the sweep.
        DamagedRecordError: a file of the sweep is damaged.
    """
    check_sweep(config)
    with exclusive_use(sweep_folder(config), "sweep"):
        return _run_sweep(config)


def _run_sweep(config: RunConfig) -> SweepResult:
    shards = split_shards_url(config, "train")
    manifest = read_training_manifest(config, shards)
    check_data(config, manifest, shards)
    record = read_record(config, manifest.digest)
    ledger = TrialLedger(config)
    _settle_finished(config, ledger)
    clock = SweepClock(config)
    count = trial_count(config)
    started, new = ledger.unfinished(count)
    nothing_to_do = not (started or new) or clock.is_over
    if nothing_to_do and record is not None and record.reported == len(ledger.settled()) > 0:
        logger.info("the sweep in %s is finished; nothing to do", config.output)
        if not config.sweep.register_best or record.registered is not None:
            _send_unsent(config)
            return _result(config, record, ledger, count)
    # Before anything is recorded: the cluster may be too small.
    resources = connect()
    settled = config.model_copy(
        update={"train": settle_workers(config.train, resources, is_trial=True)}
    )
    concurrent = concurrent_trials(settled, resources, count)
    with open_run(config, "sweep", run_id=record.run_id if record else None) as run:
        record = record or SweepRecord(shared_digest(config), manifest.digest, run.run_id)
        record = replace(record, run_id=run.run_id)
        write_record(config, record)
        if not nothing_to_do:
            logger.info("%d trials to run, %d at a time", len(started) + len(new), concurrent)
            run_search(settled, ledger, clock, run.run_id, count, concurrent)
            clock.save()
        _check_interrupted(config, ledger, clock, count)
        return _conclude(config, run, record, ledger, count)


def _send_unsent(config: RunConfig) -> None:
    """Send what the sweep and its trials could not; the result stands if that fails."""
    try:
        send_unsent(config, UPLOAD_TIMEOUT_S)
    except (TrackingError, storage.StorageError) as error:
        logger.warning("the MLflow runs of the sweep are not complete yet: %s", error)


def _settle_finished(config: RunConfig, ledger: TrialLedger) -> None:
    """Note trials that had ended when the sweep was killed, and those to try again."""
    for trial in ledger.records():
        if config.sweep.retry_failed and trial.status in ("failed", "running"):
            forget_error(config, trial.trial_id)
            trial = ledger.write(replace(trial, status="running", error=None))
        if trial.is_settled:
            continue
        if (error := read_error(config, trial.trial_id)) is not None:
            ledger.write(replace(trial, status="failed", error=error))
            continue
        if not has_finished(config, trial):
            continue
        training = read_run_record(trial_folder(config, trial.trial_id))
        if training is not None and training.result is not None:
            metrics = trial.metrics | training.result["metrics"]
            trial = replace(trial, metrics=metrics, steps=int(training.result["steps"]))
        ledger.write(replace(trial, status="finished"))


def _check_interrupted(
    config: RunConfig, ledger: TrialLedger, clock: SweepClock, count: int
) -> None:
    """Raise if the search ended with trials left to run, although there was time."""
    started, new = ledger.unfinished(count)
    if (started or new) and not clock.is_over:
        # Ray Tune catches the first Ctrl-C and returns.
        raise KeyboardInterrupt


def _conclude(
    config: RunConfig, run: TrackedRun, record: SweepRecord, ledger: TrialLedger, count: int
) -> SweepResult:
    """Select the best trial, write its config and the report, and register it if asked for."""
    trials = ledger.records()
    _end_stopped_runs(config, run, trials)
    best = best_trial(trials, config.sweep)
    if best is None:
        raise SweepError(_nothing_to_show(config, trials))
    url = _best_url(config)
    content = to_yaml(best_config(config, best.values, best.weights))
    storage.write_bytes(url, content.encode())
    write_report(config, run, trials, best)
    sink = MetricSink(run.uri, run.run_id, unsent=run.unsent.metrics())
    sink.log(best.metrics, best.steps)
    sink.close()
    record = replace(record, reported=len(ledger.settled()))
    if config.sweep.register_best and record.registered_trial != best.trial_id:
        version = register_trial(config, best)
        record = replace(record, registered=version, registered_trial=best.trial_id)
    write_record(config, record)
    return _result(config, record, ledger, count)


def _result(config: RunConfig, record: SweepRecord, ledger: TrialLedger, count: int) -> SweepResult:
    trials = ledger.records()
    best = best_trial(trials, config.sweep)
    if best is None:
        raise SweepError(_nothing_to_show(config, trials))
    started, new = ledger.unfinished(count)
    return SweepResult(
        best=best,
        best_config_url=_best_url(config),
        report_url=storage.join(sweep_folder(config), "report.md"),
        trials=trials,
        unfinished=len(started) + len(new),
        run_id=record.run_id,
        registered=record.registered,
    )


def _nothing_to_show(config: RunConfig, trials: tuple[TrialRecord, ...]) -> str:
    errors = sorted(trial.error for trial in trials if trial.error)
    if not errors:
        return (
            f"none of {len(trials)} trials reported {config.sweep.metric} in the time they had; "
            "raise sweep.max_hours, or lower sweep.grace_steps"
        )
    return (
        f"none of {len(trials)} trials succeeded; the first error: {errors[0]} "
        "(sweep.retry_failed=true runs them again)"
    )


def _end_stopped_runs(config: RunConfig, run: TrackedRun, trials: tuple[TrialRecord, ...]) -> None:
    """End the MLflow runs of trials whose processes were killed before they could.

    What a tracker that is away does not take is kept in the folders of the trials.
    """
    is_lost = False
    for trial in trials:
        output = trial_folder(config, trial.trial_id)
        training = read_run_record(output)
        if training is None or training.result is not None:
            continue
        run_id = training.run_id
        status = {"failed": "FAILED", "running": "KILLED"}.get(trial.status, "FINISHED")
        tags = {"stopped_early": "true"} if trial.stopped_early else {}
        if not is_lost:
            end = functools.partial(_end_run, run.uri, run_id, status, tags)
            failure = attempt(end, UPLOAD_TIMEOUT_S)
            if failure is None:
                continue
            logger.warning("MLflow run %s could not be marked %s: %s", run_id, status, failure)
            if failure.error_code == "RESOURCE_DOES_NOT_EXIST":
                continue  # someone deleted it
            is_lost = failure.is_lost
        unsent = UnsentRun(output, run_id)
        unsent.keep_note(STATUS, status)
        if tags:
            unsent.keep_tags(tags)


def _end_run(uri: str, run_id: str, status: str, tags: Mapping[str, str]) -> None:
    client = MlflowClient(tracking_uri=uri)
    if client.get_run(run_id).info.status == status:
        return
    for key, value in tags.items():
        client.set_tag(run_id, key, value)
    client.set_terminated(run_id, status)


def _best_url(config: RunConfig) -> str:
    return storage.join(sweep_folder(config), "best.yaml")
