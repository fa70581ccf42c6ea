"""Send to MLflow what earlier jobs kept because it was away, and count what still waits."""

import logging
from dataclasses import dataclass

from mlflow import MlflowClient

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.track.artifact_upload import UPLOAD_TIMEOUT_S, ArtifactUpload
from pipeline.track.attempt import Failure, attempt
from pipeline.track.checkpoint_models import record_checkpoints
from pipeline.track.metric_sink import MetricSink, limit_retries
from pipeline.track.mlflow_store import TrackingError, hide_password, open_store, tracking_uri
from pipeline.track.unsent_run import CHECKPOINTS, STATUS, TAGS, UnsentRun, unsent_runs

logger = logging.getLogger(__name__)

SEND_TIMEOUT_S = 120.0
PATIENT_UPLOAD_TIMEOUT_S = 600.0
"""Longest time for a file where no job waits for it, seconds."""

_NOTES = {TAGS: "tags", STATUS: "status", CHECKPOINTS: "checkpoints"}


@dataclass(frozen=True)
class UnsentCount:
    """How much of the runs of an output MLflow has not yet.

    Args:
        runs: MLflow runs of which something waits.
        metrics: waiting metrics.
        artifacts: waiting files.
        notes: what else waits, such as tags.
    """

    runs: int = 0
    metrics: int = 0
    artifacts: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [_number(self.metrics, "metric")] if self.metrics else []
        parts += [_number(self.artifacts, "artifact")] if self.artifacts else []
        others = f"the {' and '.join(self.notes)}" if self.notes else "nothing"
        return f"{' and '.join(parts) or others} of {_number(self.runs, 'MLflow run')}"


def count_unsent(output: str) -> UnsentCount:
    """Count what waits below an output folder, in its sweep's trials too.

    Raises:
        StorageError: the folder cannot be read.
    """
    runs = unsent_runs(output)
    notes = {name for run in runs for name in run.notes()}
    return UnsentCount(
        runs=len(runs),
        metrics=sum(_count_metrics(run) for run in runs),
        artifacts=sum(len(run.artifacts()) for run in runs),
        notes=tuple(shown for name, shown in _NOTES.items() if name in notes),
    )


def send_unsent(
    config: RunConfig, upload_timeout_s: float = PATIENT_UPLOAD_TIMEOUT_S
) -> UnsentCount:
    """Send everything that waits below the job's output; return how much that was.

    Args:
        config: the job's settings.
        upload_timeout_s: longest time to wait for one file, seconds.

    Raises:
        TrackingError: something could not be sent; it is still kept.
        StorageError: the output cannot be read.
    """
    before = count_unsent(config.output)
    if not before.runs:
        return before
    uri = tracking_uri(config)
    client = _open(config, uri)
    failures: dict[str, Failure] = {}
    for run in unsent_runs(config.output):
        failure = send_run(client, uri, run, upload_timeout_s=upload_timeout_s)
        if failure is not None:
            failures[run.run_id] = failure
            if failure.is_lost:
                break  # the next run would wait as long, and fail too
    if failures:
        raise TrackingError(_not_sent(uri, count_unsent(config.output), failures))
    return before


def send_run(
    client: MlflowClient,
    uri: str,
    run: UnsentRun,
    status: str | None = None,
    upload_timeout_s: float = UPLOAD_TIMEOUT_S,
) -> Failure | None:
    """Send what waits of a run that has ended, and mark the run as ended.

    What is refused stays, and what comes after it is sent; without an answer of the tracker the
    rest is not tried.

    Args:
        client: client of the tracking store.
        uri: its URI.
        run: what waits.
        status: how the run has ended, if that is not kept with it.
        upload_timeout_s: longest time to wait for one file, seconds.

    Returns:
        The first reason why something was not sent; None if nothing waits any more.
    """
    if run.is_empty():
        return None
    limit_retries()
    # A tracker without the run would refuse everything for good.
    if failure := _find_run(client, run):
        return failure
    metrics_failure = _send_metrics(uri, run)
    if metrics_failure is not None and metrics_failure.is_lost:
        return metrics_failure
    artifacts = ArtifactUpload(client, run.run_id, run, timeout_s=upload_timeout_s)
    artifacts_failure = None
    if kept := artifacts.send_kept():
        reason = f"{_number(kept, 'artifact')} not taken: {artifacts.kept_because}"
        artifacts_failure = Failure(reason, is_lost=artifacts.failure is not None)
    try:
        notes_failure = _send_notes(client, run, status)
    except storage.StorageError as error:
        notes_failure = Failure(str(error))
    return metrics_failure or artifacts_failure or notes_failure


def _open(config: RunConfig, uri: str) -> MlflowClient:
    """Return a client; raise TrackingError if its store cannot be reached."""
    limit_retries()
    clients: list[MlflowClient] = []
    failure = attempt(lambda: clients.append(open_store(config)), SEND_TIMEOUT_S)
    if failure is None:
        return clients[0]
    if isinstance(failure.error, TrackingError):
        raise failure.error
    unsent = count_unsent(config.output)
    raise TrackingError(_not_sent(uri, unsent, {"": Failure(failure.reason, is_lost=True)}))


def _not_sent(uri: str, unsent: UnsentCount, failures: dict[str, Failure]) -> str:
    run_id, failure = next(iter(failures.items()))
    place = f"run {run_id}: " if run_id else ""
    reason = hide_password(f"{place}{failure}")
    if not unsent.runs:
        return reason
    others = f"; {len(failures) - 1} more runs have failures" if len(failures) > 1 else ""
    remedy = (
        " Start the server, or set track.uri to the one that has the runs."
        if failure.is_lost or failure.error_code == "RESOURCE_DOES_NOT_EXIST"
        else ""
    )
    return (
        f"MLflow at {hide_password(uri)} did not take {unsent} ({reason}{others}), which is still "
        f"kept.{remedy}"
    )


def _find_run(client: MlflowClient, run: UnsentRun) -> Failure | None:
    """Return why MLflow cannot take anything of a run; None if it can."""
    stages: list[str] = []
    failure = attempt(
        lambda: stages.append(client.get_run(run.run_id).info.lifecycle_stage), UPLOAD_TIMEOUT_S
    )
    if failure is None:
        if stages[0] == "active":
            return None
        return Failure(
            f"the run is deleted in MLflow; restore it there (mlflow.MlflowClient.restore_run), or "
            f"delete {run.url}"
        )
    if failure.error_code != "RESOURCE_DOES_NOT_EXIST":
        return Failure(failure.reason, is_lost=True, error=failure.error)
    return Failure(
        f"{failure.reason}; if the run was deleted for good, delete {run.url}", error=failure.error
    )


def _send_metrics(uri: str, run: UnsentRun) -> Failure | None:
    metrics = run.metrics()
    sink = MetricSink(uri, run.run_id, unsent=metrics)
    if waiting := sink.flush(SEND_TIMEOUT_S):
        sink.close(0)
        return Failure(f"{_number(waiting, 'metric')} still waiting", is_lost=True)
    sink.close()
    if sink.refused:
        refused = _number(len(sink.refused), "metric")
        return Failure(f"MLflow refuses {refused}; to give them up, delete {metrics.url}")
    if metrics.damaged_url is not None:
        return Failure(f"{metrics.url} was damaged, and cannot be sent; now {metrics.damaged_url}")
    return Failure(f"{metrics.url} cannot be read or deleted now") if metrics.exists() else None


def _send_notes(client: MlflowClient, run: UnsentRun, status: str | None) -> Failure | None:
    """Set the kept tags, record the checkpoints, and mark the run as ended."""
    tags, ended = run.read_note(TAGS) or {}, run.read_note(STATUS) or status
    lacks_checkpoints = run.read_note(CHECKPOINTS) is not None

    def send() -> None:
        for key, value in tags.items():
            client.set_tag(run.run_id, key, value)
        if lacks_checkpoints:
            record_checkpoints(client, run.run_id, run.output)
        if ended is not None:
            client.set_terminated(run.run_id, ended)

    if failure := attempt(send, SEND_TIMEOUT_S):
        return failure
    for name in (TAGS, CHECKPOINTS, STATUS):
        run.drop_note(name)
    run.delete_if_empty()
    return None


def _number(count: int, name: str) -> str:
    return f"{count} {name}{'' if count == 1 else 's'}"


def _count_metrics(run: UnsentRun) -> int:
    if not storage.exists(run.metrics_url):
        return 0
    return len(storage.read_bytes(run.metrics_url).splitlines())
