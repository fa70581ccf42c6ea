"""Report losses, throughput and time left every few steps."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.rates import format_duration, format_rate


@dataclass(frozen=True)
class StepReport:
    """Measurements of the steps since the last report.

    Args:
        step: optimizer steps taken so far.
        total_steps: optimizer steps of the whole run.
        losses: each term and their sum ``loss``, over all workers, averaged over the steps whose
            losses are finite; NaN if there is none.
        learning_rate: learning rate of the last step.
        gradient_norm: gradient norm of the last step, before clipping.
        images_per_s: throughput of all workers together, pauses excluded.
        data_wait: fraction of the time spent waiting for batches.
        seconds_left: time to the end of the run at this speed.
    """

    step: int
    total_steps: int
    losses: dict[str, float]
    learning_rate: float
    gradient_norm: float
    images_per_s: float
    data_wait: float
    seconds_left: float

    def metrics(self) -> dict[str, float]:
        """Return the report as flat metrics for a tracker."""
        return {
            **{f"train/{name}": value for name, value in self.losses.items()},
            "train/learning_rate": self.learning_rate,
            "train/gradient_norm": self.gradient_norm,
            "train/images_per_s": self.images_per_s,
            "train/data_wait": self.data_wait,
        }

    def line(self) -> str:
        """Return the report as one line of text."""
        terms = "  ".join(
            f"{name} {value:.4f}" for name, value in self.losses.items() if name != "loss"
        )
        return (
            f"step {self.step}/{self.total_steps}  loss {self.losses['loss']:.4f} ({terms})  "
            f"lr {self.learning_rate:.3g}  {format_rate(self.images_per_s, 'images')}  "
            f"{self.data_wait:.0%} waiting for data  {format_duration(self.seconds_left)} left"
        )


class StepMeter:
    """Accumulates losses on the device and time on the host between two reports.

    Args:
        total_steps: optimizer steps of the whole run.
        images_per_step: images of one optimizer step, all workers together.
        clock: returns seconds from any origin.
    """

    def __init__(
        self,
        total_steps: int,
        images_per_step: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._total_steps = total_steps
        self._images_per_step = images_per_step
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._sum: Tensor | None = None  # with the number of summed steps as last element
        self._names: tuple[str, ...] = ()
        self._steps = 0
        self._waited_s = 0.0
        self._paused_s = 0.0
        self._since_s = self._clock()

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Count the time inside the block as waiting for data."""
        begin = self._clock()
        yield
        self._waited_s += self._clock() - begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside the block from training time."""
        begin = self._clock()
        yield
        self._paused_s += self._clock() - begin

    def add(self, names: tuple[str, ...], values: Tensor) -> None:
        """Add a step's losses, (T,) on any device; those of a skipped step may not be finite."""
        with_count = torch.cat([values, values.new_ones(1)])
        with_count = with_count.where(values.isfinite().all(), 0.0)
        self._sum = with_count if self._sum is None else self._sum + with_count
        self._names = names
        self._steps += 1

    def report(self, step: int, learning_rate: float, gradient_norm: Tensor) -> StepReport:
        """Summarize the steps since the last report and start over; waits for the device."""
        values = [] if self._sum is None else (self._sum[:-1] / self._sum[-1]).tolist()
        norm = float(gradient_norm)
        elapsed_s = max(self._clock() - self._since_s - self._paused_s, 1e-9)
        seconds_per_step = elapsed_s / max(self._steps, 1)
        report = StepReport(
            step=step,
            total_steps=self._total_steps,
            losses={"loss": sum(values), **dict(zip(self._names, values, strict=True))},
            learning_rate=learning_rate,
            gradient_norm=norm,
            images_per_s=self._images_per_step / seconds_per_step,
            data_wait=self._waited_s / elapsed_s,
            seconds_left=(self._total_steps - step) * seconds_per_step,
        )
        self._reset()
        return report
