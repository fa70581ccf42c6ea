"""What rank 0 of a training sends to MLflow beside its metrics, without delaying the steps."""

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch
from mlflow import MlflowClient

from pipeline.config import RunConfig
from pipeline.track.artifact_upload import ArtifactUpload
from pipeline.track.attempt import Failure, attempt
from pipeline.track.checkpoint_models import record_checkpoints
from pipeline.track.environment import describe_devices, describe_environment
from pipeline.track.metric_sink import MetricSink
from pipeline.track.mlflow_run import TrackedRun
from pipeline.track.send_unsent import SEND_TIMEOUT_S, send_run
from pipeline.track.system_metrics import SystemMetrics
from pipeline.track.unsent_run import CHECKPOINTS, TAGS, UnsentRun
from pipeline.train.metric_recorder import MetricRecorder
from pipeline.train.training_state import LoadedWeights

logger = logging.getLogger(__name__)


@contextmanager
def recording(
    tracking_uri: str,
    run_id: str,
    output: str,
    loaded: LoadedWeights | None,
    interval_s: float,
    log_checkpoints: bool = True,
) -> Iterator[MetricRecorder]:
    """Provide the recorder of rank 0: losses, load of the machine, facts about the start.

    Args:
        tracking_uri: tracker of the run.
        run_id: the run.
        output: output folder, which keeps what MLflow does not take.
        loaded: the weights that this training has just loaded; None if there are none.
        interval_s: seconds between two samples of the machine's load; 0 for none.
        log_checkpoints: whether kept checkpoints become logged models (``track.log_checkpoints``).
    """
    unsent = UnsentRun(output, run_id)

    def follow_up(client: MlflowClient) -> None:
        _send_start(client, unsent)
        if log_checkpoints:
            record_checkpoints(client, run_id, output)

    sink = MetricSink(tracking_uri, run_id, unsent=unsent.metrics(), follow_up=follow_up)
    facts = threading.Thread(
        target=_record_start, args=(tracking_uri, unsent, loaded), name="run-facts", daemon=True
    )
    facts.start()
    with MetricRecorder(sink) as recorder:
        if interval_s > 0:
            with SystemMetrics(sink, lambda: recorder.step, interval_s):
                yield recorder
        else:
            yield recorder
        facts.join(10.0)


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Return the memory of this process, in GB (1e9 bytes): now on the CPU, the peak on a GPU."""
    values = {"train/memory_cpu_gb": psutil.Process().memory_info().rss / 1e9}
    if device.type == "cuda":
        values["train/memory_gpu_peak_gb"] = torch.cuda.max_memory_allocated(device) / 1e9
    return values


def send_unsent(tracking_uri: str, run_id: str, output: str) -> None:
    """Send what a finished training could not deliver, and mark its run as finished."""
    unsent = UnsentRun(output, run_id)
    if unsent.is_empty():
        return
    clients: list[MlflowClient] = []
    # The client of a database connects at once, and may raise or wait for long.
    failure: Failure | None = attempt(
        lambda: clients.append(MlflowClient(tracking_uri=tracking_uri)), SEND_TIMEOUT_S
    )
    if failure is None:
        failure = send_run(clients[0], tracking_uri, unsent, status="FINISHED")
    if failure is not None:  # the tracker may still be away; the job's result stands
        logger.warning("MLflow run %s is not complete yet: %s", run_id, failure)


@contextmanager
def recorded_checkpoints(run: TrackedRun, config: RunConfig) -> Iterator[None]:
    """Record the kept checkpoints as logged models once the training in the ``with`` block ends.

    Its last checkpoints are complete, and those that were deleted are gone, only then.
    """
    try:
        yield
    finally:
        if config.track.log_checkpoints:
            failure = attempt(
                lambda: record_checkpoints(
                    MlflowClient(tracking_uri=run.uri), run.run_id, config.output
                ),
                SEND_TIMEOUT_S,
            )
            if failure is not None:
                run.unsent.keep_note(CHECKPOINTS, str(failure))
                logger.warning("MLflow run %s lacks its checkpoints: %s", run.run_id, failure)


def _record_start(tracking_uri: str, unsent: UnsentRun, loaded: LoadedWeights | None) -> None:
    """Record the worker's machine and the weights that it loaded; keep and log what fails."""
    run_id = unsent.run_id
    tags = {"device": ", ".join(dict.fromkeys(describe_devices()))}
    if loaded is not None:
        tags |= {"initial_weights": loaded.source, "initial_weights_sha256": loaded.sha256}
    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        artifacts = ArtifactUpload(client, run_id, unsent)
        artifacts.text(json.dumps(describe_environment(), indent=2), "environment_worker.json")
        if loaded is not None:
            artifacts.text(json.dumps(_document(loaded), indent=1), "initial_weights.json")
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
    except Exception as error:  # facts about a training must not end it
        unsent.keep_tags(tags)
        logger.warning("MLflow run %s lacks facts about its start for now: %s", run_id, error)


def _send_start(client: MlflowClient, unsent: UnsentRun) -> None:
    """Send what `_record_start` kept; raises what the tracker or the storage does."""
    if unsent.is_empty():
        return
    ArtifactUpload(client, unsent.run_id, unsent).send_kept()
    for key, value in (unsent.read_note(TAGS) or {}).items():
        client.set_tag(unsent.run_id, key, value)
    unsent.drop_note(TAGS)


def _document(loaded: LoadedWeights) -> Mapping[str, object]:
    report = loaded.report
    return {
        "source": loaded.source,
        "sha256": loaded.sha256,
        "library": report.ecosystem,
        "summary": str(report),
        "loaded": list(report.loaded),
        "missing": list(report.missing_keys),
        "mismatched": {key: list(shape) for key, shape in report.mismatched_keys.items()},
        "unexpected": list(report.unexpected_keys),
        "ignored": dict(report.ignored),
        "notes": list(report.notes),
    }
