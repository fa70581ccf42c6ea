"""Run one function on many shards: several at a time on a Ray cluster, else one by one."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import ray

from pipeline.progress import Progress, show_progress

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    image_counts: Sequence[int],
    activity: str,
) -> Iterator[tuple[int, Result]]:
    """Yield the index and the result of each task, as soon as it is finished, and show progress.

    Without a Ray cluster the tasks run in this process, in order.

    Args:
        function: does one task; its exceptions are raised here.
        tasks: its arguments.
        image_counts: number of images of each task, for the progress.
        activity: for example ``writing shards``.
    """
    with show_progress(activity, sum(image_counts), "images") as progress:
        if ray.is_initialized():
            yield from _run_on_cluster(function, tasks, image_counts, progress)
            return
        for index, task in enumerate(tasks):
            result = function(task)
            progress.add(image_counts[index])
            yield index, result


def _run_on_cluster(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    image_counts: Sequence[int],
    progress: Progress,
) -> Iterator[tuple[int, Result]]:
    remote = ray.remote(function)
    max_pending = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: dict[ray.ObjectRef, int] = {}

    def wait_for_one() -> tuple[int, Result]:
        [finished], _ = ray.wait(list(pending), num_returns=1)
        index, result = pending.pop(finished), ray.get(finished)
        progress.add(image_counts[index])
        return index, result

    for index, task in enumerate(tasks):
        # Bounded, because a pending task holds its share of the annotations in memory.
        if len(pending) >= max_pending:
            yield wait_for_one()
        pending[remote.remote(task)] = index
    while pending:
        yield wait_for_one()
