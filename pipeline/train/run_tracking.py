"""What rank 0 of a training sends to MLflow beside its metrics, without delaying the steps."""

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch
from mlflow import MlflowClient

from pipeline import storage
from pipeline.track.artifact_upload import ArtifactUpload
from pipeline.track.environment import describe_devices, describe_environment
from pipeline.track.metric_sink import MetricSink, send_unsent_metrics
from pipeline.track.system_metrics import SystemMetrics
from pipeline.track.unsent_metrics import UnsentMetrics
from pipeline.train.checkpoint_store import training_url
from pipeline.train.metric_recorder import MetricRecorder
from pipeline.train.training_state import LoadedWeights

logger = logging.getLogger(__name__)


def unsent_metrics_url(output: str, run_id: str) -> str:
    """Return the file of the metrics that MLflow did not take."""
    return storage.join(training_url(output), f"unsent_metrics_{run_id}.jsonl")


@contextmanager
def recording(
    tracking_uri: str, run_id: str, output: str, loaded: LoadedWeights | None, interval_s: float
) -> Iterator[MetricRecorder]:
    """Provide the recorder of rank 0: losses, load of the machine, facts about the start.

    Args:
        tracking_uri: tracker of the run.
        run_id: the run.
        output: output folder, which keeps metrics that MLflow does not take.
        loaded: the weights that this training has just loaded; None if there are none.
        interval_s: seconds between two samples of the machine's load; 0 for none.
    """
    unsent = UnsentMetrics(unsent_metrics_url(output, run_id))
    sink = MetricSink(tracking_uri, run_id, unsent=unsent)
    facts = threading.Thread(
        target=_record_start, args=(tracking_uri, run_id, loaded), name="run-facts", daemon=True
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
    send_unsent_metrics(tracking_uri, run_id, UnsentMetrics(unsent_metrics_url(output, run_id)))


def _record_start(tracking_uri: str, run_id: str, loaded: LoadedWeights | None) -> None:
    """Record the worker's machine and the weights that it loaded; log what fails."""
    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        tags = {"device": ", ".join(dict.fromkeys(describe_devices()))}
        if loaded is not None:
            tags |= {
                "initial_weights": loaded.source,
                "initial_weights_sha256": loaded.sha256,
            }
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
        artifacts = ArtifactUpload(client, run_id)
        artifacts.text(json.dumps(describe_environment(), indent=2), "environment_worker.json")
        if loaded is not None:
            artifacts.text(json.dumps(_document(loaded), indent=1), "initial_weights.json")
    except Exception as error:  # facts about a training must not end it
        logger.warning("MLflow run %s lacks facts about its start: %s", run_id, error)


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
