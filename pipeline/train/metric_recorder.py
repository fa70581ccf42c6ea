"""The latest metrics of a training, which rank 0 also sends to the tracker."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from pipeline.track.metric_sink import MetricSink


class MetricRecorder:
    """Keeps the latest value of every metric. A context manager, which ends the delivery.

    Args:
        sink: delivers them to the tracker; None on workers that do not.
    """

    def __init__(self, sink: MetricSink | None) -> None:
        self.latest: dict[str, float] = {}
        self.step = 0
        """The step of the latest metrics."""
        self._sink = sink

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Keep the values, and send them to the tracker."""
        self.latest |= values
        # A validation's metrics arrive after those of later steps.
        self.step = max(self.step, step)
        if self._sink is not None:
            self._sink.log(values, step)

    def flush(self, timeout_s: float) -> None:
        """Wait until the tracker has everything, at most this long."""
        if self._sink is not None:
            self._sink.flush(timeout_s)

    def after_pause(self) -> None:
        """Let the tracker follow the checkpoints in the output folder; return at once."""
        if self._sink is not None:
            self._sink.request_follow_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._sink is not None:
            self._sink.close()
