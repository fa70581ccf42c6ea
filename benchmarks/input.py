"""Input path: images per second of our training stream, and of other ways to make batches.

    python -m benchmarks.input --annotations instances_train2017.json --images train2017

No network: the batches are only made. Every source resizes to the same size and has the same
number of decoding threads or processes; sources take turns, so that other load affects all alike.
Ratios are those of our stream to the others: at least 0.8 of the bare work in threads, 1.2 of a
DataLoader with our functions, and 2 of torchvision's reference recipe are the goals. The CPU time
per image, over all threads and processes and in the best turn, is the same on a busy machine.
"""

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import psutil
import torch

from benchmarks import input_sources as sources
from benchmarks.input_dataset import (
    add_dataset_options,
    dataset_files,
    parse_options,
    prepare_shards,
)
from benchmarks.machine import print_table, save
from pipeline.cluster import connect
from pipeline.config import RunConfig
from pipeline.shards.manifest import read_manifest

Source = Callable[[sources.Setup], Iterator[int]]
OURS = "our stream"
SOURCES: dict[str, Source] = {
    OURS: sources.local_stream,
    "threads: JPEG only": sources.jpeg_in_threads,
    "threads: decode, resize, flip": sources.decode_in_threads,
    "DataLoader, our functions": sources.data_loader,
    "torchvision's loader": sources.torchvision_loader,
    "torchvision's loader and transform": sources.torchvision_batches,
}
WITH_RAY: dict[str, Source] = {"our stream, read by Ray Data": sources.ray_stream}


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="input-") as scratch:
        setup = _prepare(options, Path(scratch))
        memory = _measure_memory(setup, options.epochs)
        rows = _measure(SOURCES, setup, options.rounds, options.seconds)
        if options.ray:
            connect()
            rows += _measure(WITH_RAY, setup, options.rounds, options.seconds)
    speed = rows[0]["images_per_s"]
    rows = [{**row, "ratio": speed / row["images_per_s"]} for row in rows]
    print_table(rows)
    print_table([memory])
    if options.out:
        save([*rows, memory], options.out)


def _prepare(options: argparse.Namespace, folder: Path) -> sources.Setup:
    annotations, images = dataset_files(options, folder)
    shards = prepare_shards(annotations, images, folder / "shards")
    config = RunConfig.model_validate(
        {
            "model": {
                "num_classes": len(read_manifest(shards).categories),
                "input": {
                    "short_side": options.short_side,
                    "long_side": round(options.short_side * 1333 / 800),
                },
            },
            "data": {"decode_threads": options.threads},
            "train": {"global_batch": options.batch},
        }
    )
    return sources.Setup(annotations, images, shards, config)


def _measure(
    cases: Mapping[str, Source], setup: sources.Setup, rounds: int, seconds: float
) -> list[dict[str, float | str]]:
    """Return the speed of each source, and the time until its first batch."""
    running, first_batch_s = {}, {}
    for name, source in cases.items():
        begin = time.perf_counter()
        running[name] = source(setup)
        next(running[name])
        first_batch_s[name] = time.perf_counter() - begin
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, batches in running.items():
            turns[name].append(_turn(batches, seconds, 2 * setup.config.data.lookahead_batches))
    for batches in running.values():
        batches.close()
    return [
        {
            "case": name,
            "batch": setup.config.train.global_batch,
            "short_side": setup.config.model.input.short_side,
            "threads": setup.cores,
            "images_per_s": median(speed for speed, _ in turns[name]),
            "cpu_ms": min(cpu_ms for _, cpu_ms in turns[name]),
            "first_batch_s": first_batch_s[name],
        }
        for name in cases
    ]


def _turn(batches: Iterator[int], seconds: float, ahead: int) -> tuple[float, float]:
    """Return images per second and CPU milliseconds per image of one turn.

    Args:
        batches: the source.
        seconds: length of the turn.
        ahead: batches made during the turns of others; they do not count.
    """
    begin = time.perf_counter()
    for _ in range(ahead + 1):
        next(batches)
        if time.perf_counter() > begin + seconds:
            break
    images, begin, cpu_before = 0, time.perf_counter(), _cpu_seconds()
    while time.perf_counter() < begin + seconds:
        images += next(batches)
    cpu_ms = 1000 * (_cpu_seconds() - cpu_before) / images
    return images / (time.perf_counter() - begin), cpu_ms


def _cpu_seconds() -> float:
    """Return the CPU time of this process and its children so far."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def _measure_memory(setup: sources.Setup, epochs: int) -> dict[str, float | str]:
    """Return the resident memory of a process after each of some epochs of our stream."""
    process = psutil.Process(os.getpid())
    batches = sources.local_stream(setup)
    steps = max(1, read_manifest(setup.shards).rows // setup.config.train.global_batch)
    resident = []
    for _ in range(epochs):
        for _ in range(steps):
            next(batches)
        gc.collect()
        resident.append(process.memory_info().rss / 2**20)
    return {
        "case": f"memory over {epochs} epochs",
        "mib_after_first_epoch": resident[0],
        "mib_after_last_epoch": resident[-1],
        "max_mib": max(resident),
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_dataset_options(parser, count=400)
    parser.add_argument("--short-side", type=int, default=800, help="pixels")
    parser.add_argument("--batch", type=int, default=16, help="images per batch")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="decoding threads")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each source")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a turn")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the memory's measurement")
    parser.add_argument("--ray", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="JSON file for the rows and the machine")
    return parse_options(parser)


if __name__ == "__main__":
    main()
