"""The progress of a job: a bar on a terminal, a line every few seconds elsewhere."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from pipeline.console import are_logs_shown, terminal
from pipeline.rates import format_duration, format_rate

logger = logging.getLogger(__name__)

LINE_INTERVAL_S = 10.0


class Progress:
    """Counts what an activity has done. Its methods may be called from any thread.

    Args:
        total: how many there are to do.
        unit: their name in the plural, ending with s.
        clock: returns seconds from any origin.
    """

    def __init__(self, total: int, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = 0
        self._unit = unit
        self._clock = clock
        self._started_s = clock()
        self._lock = threading.Lock()

    def restart_clock(self) -> None:
        """Measure the rate from now on: the preparations are over."""
        self._started_s = self._clock()

    def add(self, count: int) -> None:
        """Count some more as done."""
        with self._lock:
            self.done += count

    def __str__(self) -> str:
        """Return counts, rate and time left, as in ``32 of 100 images, 4.1 images/s, 17s left``."""
        counts = f"{self.done} of {self.total} {self._unit}"
        elapsed_s = max(self._clock() - self._started_s, 1e-3)
        if self.done == 0:
            return f"{counts} after {format_duration(elapsed_s)}"
        rate = self.done / elapsed_s
        if self.done >= self.total:
            return f"{counts} in {format_duration(elapsed_s)}, {format_rate(rate, self._unit)}"
        left = format_duration((self.total - self.done) / rate)
        return f"{counts}, {format_rate(rate, self._unit)}, {left} left"


@contextlib.contextmanager
def show_progress(
    activity: str, total: int, unit: str, interval_s: float = LINE_INTERVAL_S
) -> Iterator[Progress]:
    """Show the progress of an activity inside a ``with`` block, even while nothing is finished.

    Args:
        activity: for example ``predicting``.
        total: how many units there are to do.
        unit: their name in the plural, ending with s, for example ``images``.
        interval_s: seconds between two lines, if stderr is no terminal.
    """
    progress = Progress(total, unit)
    if are_logs_shown() and terminal().is_terminal:
        with _bar(activity, progress):
            yield progress
    else:
        with _lines(activity, progress, interval_s):
            yield progress
    logger.info("%s: %s", activity, progress)


@contextlib.contextmanager
def _bar(activity: str, progress: Progress) -> Iterator[None]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"))
    with Bars(*columns, console=terminal(), transient=True) as bars:
        task = bars.add_task(activity, total=progress.total, counts=progress)

        def update() -> None:
            bars.update(task, completed=progress.done)

        with _repeat(update, 0.2):
            yield


@contextlib.contextmanager
def _lines(activity: str, progress: Progress, interval_s: float) -> Iterator[None]:
    with _repeat(lambda: logger.info("%s: %s", activity, progress), interval_s):
        yield


@contextlib.contextmanager
def _repeat(action: Callable[[], None], interval_s: float) -> Iterator[None]:
    """Call ``action`` every ``interval_s`` seconds in a thread, until the block ends."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(interval_s):
            action()

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
