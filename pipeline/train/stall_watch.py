"""Notice a worker that makes no progress, name it, and end it, so that Ray Train restarts it."""

import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

logger = logging.getLogger(__name__)

Activity = Literal["waiting for data", "computing", "paused"]

STALLED_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again

# A worker that computes may be waiting for another one, which is to end first.
_COMPUTING_FACTOR = 2.0


class StallWatch:
    """Watches one worker's training loop from a thread; a context manager.

    The process ends if a step waits for data for ``limit_s``, or computes for twice as long: a
    worker that waits for a stalled one, in an exchange of gradients, looks as if it computed.
    Pauses are not watched, because a validation may take hours; nor is the first step, in which
    compilers run and caches are filled.

    Args:
        rank: of the worker, for the message.
        limit_s: seconds without progress; None never ends the process.
        clock: returns seconds from any origin.
        end: ends the process.
    """

    def __init__(
        self,
        rank: int,
        limit_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._rank = rank
        self._limit_s = limit_s
        self._clock = clock
        self._end = end
        # One tuple, replaced as a whole: the thread never sees half of a change.
        self._state: tuple[Activity, int, float] = ("paused", 0, clock())
        self._first_step: int | None = None
        self._watched_thread = threading.get_ident()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stall-watch", daemon=True)

    def now(self, activity: Activity, step: int) -> None:
        """Note what the worker begins to do in a step; called several times per step."""
        if self._first_step is None:
            self._first_step = step
        self._state = (activity, step, self._clock())

    def check(self) -> None:
        """End the process if it has made no progress for too long."""
        activity, step, since_s = self._state
        limit_s = self._limit_s
        if limit_s is None or activity == "paused" or step == self._first_step:
            return
        if activity == "computing":
            limit_s *= _COMPUTING_FACTOR
        if self._clock() - since_s < limit_s:
            return
        logger.error(
            "worker %d on %s is stalled: %s for %.3g minutes in step %d. Ending its process; the "
            "training continues from its newest checkpoint, train.max_failures times at most. It "
            "is at:\n%s",
            self._rank,
            socket.gethostname(),
            activity,
            limit_s / 60,
            step + 1,
            self._stack(),
        )
        logging.shutdown()
        self._end(STALLED_EXIT_CODE)

    def __enter__(self) -> Self:
        if self._limit_s is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()

    def _watch(self) -> None:
        interval_s = min((self._limit_s or 60.0) / 4, 5.0)
        while not self._closed.wait(interval_s):
            self.check()

    def _stack(self) -> str:
        """Return where the worker's training loop is, innermost call last."""
        frame = sys._current_frames().get(self._watched_thread)
        return "".join(traceback.format_stack(frame)[-8:]) if frame else "(no stack)"
