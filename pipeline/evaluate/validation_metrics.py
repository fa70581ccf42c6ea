"""Compute the metrics of a validation in another process, while the training goes on.

COCO metrics of 5,000 images take about 20 s on one core (100,000 detections, boxes and masks). In a
thread of the training's process they would hold Python's lock for seconds at a time.
"""

from concurrent.futures import Future
from typing import Any

import ray

from pipeline.evaluate.metrics import Metrics
from pipeline.evaluate.validation import ValidationPredictions, measure

# Below this, measuring takes less time (2 s) than a new process needs to start.
FEW_DETECTIONS = 10_000


def start_measuring(predictions: ValidationPredictions, is_needed_now: bool) -> Future[Metrics]:
    """Measure predictions in a Ray task, or at once if they are few or the caller would wait.

    The task reserves no CPU, because a training may have reserved all, and its process ends with
    it, because the memory of a large validation is not returned otherwise. Ray starts it again if
    the process dies.

    Returns:
        The metrics to come, or the error of measuring them.
    """
    if not is_needed_now and len(predictions.results) >= FEW_DETECTIONS:
        task: Any = ray.remote(num_cpus=0, max_calls=1)(measure)
        future: Future[Metrics] = task.remote(predictions).future()
        return future
    measured: Future[Metrics] = Future()
    measured.set_result(measure(predictions))
    return measured
