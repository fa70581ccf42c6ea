"""Work beside the detector, in threads, so that it does not wait."""

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_in_threads(
    function: Callable[[T], R], items: Iterable[T], threads: int, ahead: int
) -> Iterator[R]:
    """Apply a function in threads and yield its results in order.

    After Ctrl-C the results of the items that were taken already are still yielded.

    Args:
        function: called with one item.
        items: taken in the caller's thread, which may compute them.
        threads: number of threads.
        ahead: results that may be unfinished while the next item is taken.
    """
    waiting: deque[Future[R]] = deque()
    interrupt: KeyboardInterrupt | None = None
    with ThreadPoolExecutor(threads, "beside-detector") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                while waiting and (len(waiting) > ahead or waiting[0].done()):
                    yield waiting.popleft().result()
        except KeyboardInterrupt as error:
            interrupt = error
        while waiting:
            yield waiting.popleft().result()
    if interrupt is not None:
        raise interrupt


@contextlib.contextmanager
def read_ahead(items: Iterator[T], count: int) -> Iterator[Iterator[T]]:
    """Provide an iterator whose items a thread takes ahead, inside a ``with`` block.

    Args:
        items: only the thread uses it.
        count: maximum number of items taken ahead.
    """
    taken: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(count)
    ended = threading.Event()

    def put(is_item: bool, value: T | BaseException | None) -> None:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                taken.put((is_item, value), timeout=0.1)
                return

    def take() -> None:
        try:
            for item in items:
                put(True, item)
                if ended.is_set():
                    return
            put(False, None)
        except BaseException as error:  # raised again where the items are used
            put(False, error)

    def results() -> Iterator[T]:
        while True:
            is_item, value = taken.get()
            if is_item:
                yield value  # type: ignore[misc]  # an item
            elif value is None:
                return
            else:
                raise value  # type: ignore[misc]  # an error

    thread = threading.Thread(target=take, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield results()
    finally:
        ended.set()
        thread.join()
