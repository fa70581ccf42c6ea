"""Time per image of two detectors, measured in turns on the same images and the same machine."""

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model import Predictor
from pipeline.config import RunConfig
from pipeline.evaluate.validation import rows_of_rank
from pipeline.infer.model_files import ModelFiles
from pipeline.output_layout import evaluated_shards_url
from pipeline.track.promotion_rules import Latency
from pipeline.track.weights_source import resolve_weights

MEASURED_IMAGES = 20
_WARM_UP = 2

Pixels = NDArray[np.uint8]


def compare_latency(config: RunConfig, own: str, champion: str) -> Latency:
    """Measure both detectors one image at a time, on the first images of the validation shards.

    The two take turns on each image, so that another load on the machine slows both alike. A time
    is that of ``Predictor.predict`` on decoded pixels: resizing, network, masks.

    Args:
        config: selects the shards, the precision (``evaluate.precision``) and the MLflow store.
        own: weights of the version.
        champion: weights of the champion.

    Raises:
        StorageError: the shards or the weights cannot be read.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    predictors = [_load(config, source, device) for source in (own, champion)]
    images = list(islice(_images(config), MEASURED_IMAGES))
    for predictor in predictors:
        for image in images[:_WARM_UP]:
            predictor.predict([image])
    times_ms: tuple[list[float], list[float]] = ([], [])
    for number, image in enumerate(images):
        # Each goes first on every second image.
        for index in (0, 1) if number % 2 else (1, 0):
            times_ms[index].append(_time_ms(predictors[index], image))
    own_ms, champion_ms = map(statistics.median, times_ms)
    how = f"median of {len(images)} images, batch 1, {config.evaluate.precision}"
    return Latency(own_ms, champion_ms, f"{machine_type(device)}; {how}")


def machine_type(device: str) -> str:
    """Return the type of the processor that a detector runs on, for people."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _load(config: RunConfig, source: str, device: str) -> Predictor:
    with resolve_weights(source, config) as path:
        files = ModelFiles.read(path, config.model)
    return files.load(device, config.evaluate.precision)


def _images(config: RunConfig) -> Iterator[Pixels]:
    for row in rows_of_rank(evaluated_shards_url(config), 0, 1):
        try:
            yield row.decode()
        except (OSError, ValueError):  # a damaged image, which the evaluation reports
            continue


def _time_ms(predictor: Predictor, image: Pixels) -> float:
    started = time.perf_counter()
    predictor.predict([image])  # its results are on the CPU, so nothing is left to run
    return 1000 * (time.perf_counter() - started)


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines: Sequence[str] = path.read_text().splitlines() if path.exists() else ()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, f"CPU with {os.cpu_count()} cores")
