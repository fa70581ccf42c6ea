"""Load of the machine during a training, as MLflow's system metrics."""

import logging
import threading
from collections.abc import Callable

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from pipeline.track.metric_sink import MetricSink

logger = logging.getLogger(__name__)

SAMPLE_EVERY_S = 10.0


class SystemMetrics:
    """Samples the machine's load in a thread, and delivers it through a sink.

    MLflow's own monitor ends at the first failed request; a sink keeps what it cannot deliver, and
    the steps are those of the training. A context manager.

    Args:
        sink: receives the metrics, as ``system/...``.
        step: returns the present step of the training.
        every_s: seconds between two samples.
    """

    def __init__(
        self, sink: MetricSink, step: Callable[[], int], every_s: float = SAMPLE_EVERY_S
    ) -> None:
        self._sink = sink
        self._step = step
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def __enter__(self) -> "SystemMetrics":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        try:
            monitors = _monitors()
            while not self._ended.wait(self._every_s):
                values: dict[str, float] = {}
                for monitor in monitors:
                    monitor.collect_metrics()
                    values |= monitor.aggregate_metrics()
                    monitor.clear_metrics()
                self._sink.log({f"system/{k}": v for k, v in values.items()}, self._step())
        except Exception as error:  # of a driver or an operating system; must not end a training
            logger.warning("the load of this machine is not recorded: %s", error)


def _monitors() -> list[BaseMetricsMonitor]:
    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        monitors.append(GPUMonitor())
    except (ImportError, RuntimeError) as error:  # no package nvidia-ml-py, or no GPU
        logger.debug("no metrics of GPUs: %s", error)
    return monitors
