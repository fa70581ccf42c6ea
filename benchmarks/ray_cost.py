"""What Ray Train costs: a step inside its worker, against the same loop in a plain process.

    python -m benchmarks.ray_cost --annotations instances_train2017.json --images train2017

Both train Mask R-CNN R50-FPN with one process on the same batches, with the same threads; the plain
process reads its shards itself instead of through Ray Data. They take turns, each in a new process,
so that other load affects both alike. The goal is a cost below 3% of a step.
"""

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from mlflow import MlflowClient

from benchmarks.input_dataset import (
    add_dataset_options,
    dataset_files,
    parse_options,
    prepare_shards,
)
from benchmarks.machine import print_table, save
from pipeline.cluster import session
from pipeline.config import RunConfig
from pipeline.shards.manifest import read_manifest
from pipeline.stream.training_stream import open_local_stream
from pipeline.train.driver import run_training
from pipeline.train.loop import LoopHooks, LoopPlan, TrainingLoop
from pipeline.train.schedule import learning_rate
from pipeline.train.training_state import new_training_state

T = TypeVar("T")

LOG_EVERY = 4

Speeds = list[float]
"""Images per second of every `LOG_EVERY` steps."""


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="ray-cost-") as scratch:
        folder = Path(scratch)
        annotations, images = dataset_files(options, folder)
        shards = _in_new_process(prepare_shards, annotations, images, folder / "shards")
        turns: dict[str, Speeds] = {"plain process": [], "Ray Train worker": []}
        for turn in range(options.turns):
            config = _config(options, shards, folder / f"turn-{turn}")
            for name, train in (
                ("plain process", train_plainly),
                ("Ray Train worker", train_in_ray),
            ):
                # The first steps wait for the first batches and fill caches.
                turns[name] += _in_new_process(train, config)[1:]
    rows = [
        {
            "case": name,
            "batch": options.batch,
            "short_side": options.short_side,
            "threads": options.threads,
            "steps": LOG_EVERY * len(speeds),
            "step_ms": 1000 * options.batch / median(speeds),
            "cost": median(turns["plain process"]) / median(speeds) - 1,
        }
        for name, speeds in turns.items()
    ]
    print_table(rows)
    if options.out:
        save(rows, options.out)


def train_plainly(config: RunConfig) -> Speeds:
    """Run the training loop in this process."""
    train, shards = config.train, config.data.train_shards or ""
    torch.set_num_threads(int(train.worker_cpus))
    torch.manual_seed(config.seed)
    device = torch.device("cpu")
    state = new_training_state(config, read_manifest(shards).categories, device)
    speeds: Speeds = []
    with open_local_stream(config, shards, 0, 1, 0, train.schedule.steps, device) as stream:
        TrainingLoop(
            model=state.distributed_model(),
            optimizer=state.optimizer,
            lr_schedule=lambda step: learning_rate(step, train.optimizer.lr, train.schedule),
            precision=state.precision,
            device=device,
            plan=LoopPlan(0, train.schedule.steps, train.global_batch, log_every=LOG_EVERY),
            hooks=LoopHooks(log=lambda report: speeds.append(report.images_per_s)),
        ).run(stream)
    return speeds


def train_in_ray(config: RunConfig) -> Speeds:
    """Run the training job with a Ray of its own."""
    with session():
        result = run_training(config)
    client = MlflowClient(tracking_uri=f"sqlite:///{config.output}/mlflow.db")
    history = client.get_metric_history(result.run_id, "train/images_per_s")
    return [metric.value for metric in sorted(history, key=lambda metric: metric.step)]


def _in_new_process(function: Callable[..., T], *arguments: object) -> T:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _config(options: argparse.Namespace, shards: str, output: Path) -> RunConfig:
    output.mkdir()
    return RunConfig.model_validate(
        {
            "output": str(output),
            "data": {
                "train_shards": shards,
                "train_short_sides": [options.short_side],
                "decode_threads": 1,
            },
            "model": {
                "num_classes": len(read_manifest(shards).categories),
                "input": {"short_side": options.short_side, "long_side": 2 * options.short_side},
            },
            "train": {
                "workers": 1,
                "cpus_per_worker": options.threads,
                "global_batch": options.batch,
                "allow_frozen_random_norms": True,
                "optimizer": {"lr": 1e-5},
                "schedule": {"steps": LOG_EVERY + options.steps, "warmup_steps": 0},
                "log_every": LOG_EVERY,
            },
        }
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_dataset_options(parser, count=80)
    parser.add_argument("--short-side", type=int, default=320, help="pixels")
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the training")
    parser.add_argument("--steps", type=int, default=12, help="measured steps of a turn")
    parser.add_argument("--turns", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--out", type=Path, help="JSON file for the rows and the machine")
    return parse_options(parser)


if __name__ == "__main__":
    main()
