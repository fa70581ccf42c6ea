"""Send to MLflow what earlier jobs kept because it was away, and count what still waits."""

import logging
from dataclasses import dataclass

from mlflow import MlflowClient

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.track.artifact_upload import UPLOAD_TIMEOUT_S, ArtifactUpload, attempt
from pipeline.track.checkpoint_models import record_checkpoints
from pipeline.track.metric_sink import MetricSink
from pipeline.track.mlflow_store import TrackingError, hide_password, open_store, tracking_uri
from pipeline.track.unsent_run import CHECKPOINTS, STATUS, TAGS, UnsentRun, unsent_runs

logger = logging.getLogger(__name__)

SEND_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class UnsentCount:
    """How much of the runs of an output MLflow has not yet.

    Args:
        runs: MLflow runs of which something waits.
        metrics: waiting metrics.
        artifacts: waiting files.
    """

    runs: int = 0
    metrics: int = 0
    artifacts: int = 0

    def __str__(self) -> str:
        parts = [_number(self.metrics, "metric")] if self.metrics else []
        parts += [_number(self.artifacts, "artifact")] if self.artifacts else []
        return f"{' and '.join(parts) or 'the status'} of {_number(self.runs, 'MLflow run')}"


def count_unsent(output: str) -> UnsentCount:
    """Count what waits below an output folder, in its sweep's trials too.

    Raises:
        StorageError: the folder cannot be read.
    """
    runs = unsent_runs(output)
    return UnsentCount(
        runs=len(runs),
        metrics=sum(_count_metrics(run) for run in runs),
        artifacts=sum(len(run.artifacts()) for run in runs),
    )


def send_unsent(config: RunConfig) -> UnsentCount:
    """Send everything that waits below the job's output; return how much that was.

    Raises:
        TrackingError: something could not be sent; it is still kept.
        StorageError: the output cannot be read.
    """
    before = count_unsent(config.output)
    if not before.runs:
        return before
    client, uri = open_store(config), tracking_uri(config)
    failures = {run.run_id: send_run(client, uri, run) for run in unsent_runs(config.output)}
    failed = {run_id: failure for run_id, failure in failures.items() if failure is not None}
    if failed:
        run_id, failure = next(iter(failed.items()))
        raise TrackingError(
            f"MLflow at {hide_password(uri)} did not take {count_unsent(config.output)} (run "
            f"{run_id}: {failure}), which is still kept. Start the server, or set track.uri to the "
            "one that has the runs."
        )
    return before


def send_run(
    client: MlflowClient, uri: str, run: UnsentRun, status: str | None = None
) -> str | None:
    """Send what waits of a run that has ended, and mark the run as ended.

    Args:
        client: client of the tracking store.
        uri: its URI.
        run: what waits.
        status: how the run has ended, if that is not kept with it.

    Returns:
        Why something was not sent; None if nothing waits any more.
    """
    if run.is_empty():
        return None
    # A tracker without the run would refuse the metrics for good.
    if failure := attempt(lambda: client.get_run(run.run_id), UPLOAD_TIMEOUT_S):
        return failure
    sink = MetricSink(uri, run.run_id, unsent=run.metrics())
    if waiting := sink.flush(SEND_TIMEOUT_S):
        sink.close(0)
        return f"{waiting} metrics wait"
    sink.close()
    artifacts = ArtifactUpload(client, run.run_id, run)
    if artifacts.send_kept():
        return f"artifacts wait: {artifacts.failure or 'they cannot be read'}"
    try:
        return _send_notes(client, run, status)
    except storage.StorageError as error:
        return str(error)


def _send_notes(client: MlflowClient, run: UnsentRun, status: str | None) -> str | None:
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
