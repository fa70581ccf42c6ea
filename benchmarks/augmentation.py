"""Cost of each augmentation in the training stream, as CPU time per image.

    python -m benchmarks.augmentation --annotations instances_train2017.json --images train2017

Every case reads the same images in batches of 16, resized to 800 pixels or jittered to 1024. The
CPU time is that of all threads, in the best round, so it is the same on a busy machine.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.input_dataset import (
    add_dataset_options,
    dataset_files,
    parse_options,
    prepare_shards,
)
from benchmarks.machine import print_table, save
from pipeline.config import RunConfig
from pipeline.shards.manifest import read_manifest
from pipeline.stream.training_stream import open_local_stream

BATCH = 16
JITTER: dict[str, Any] = {"scale_jitter": {}}
PASTE = {"copy_paste_probability": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "flip_probability: 0.5": {},
    "vertical_flip_probability: 0.5": {"vertical_flip_probability": 0.5},
    "quarter_turn_probability: 0.75": {"quarter_turn_probability": 0.75},
    "color_jitter, all four": {
        "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    },
    "copy_paste_probability: 1": PASTE,
    "random_crop": {"random_crop": {}},
    "random_crop, with_object": {"random_crop": {"with_object": True}},
    "scale_jitter": JITTER,
    "scale_jitter, copy_paste_probability: 1": {**JITTER, **PASTE},
}
"""What is measured -> settings below ``data``, beside the default flip."""


def main() -> None:
    """Measure all cases and print them."""
    options = _parse()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="augmentation-") as scratch:
        annotations, images = dataset_files(options, Path(scratch))
        shards = prepare_shards(annotations, images, Path(scratch) / "shards")
        best: dict[str, dict[str, float]] = {}
        for _ in range(options.rounds):
            for case, settings in CASES.items():
                measured = _measure(shards, settings, options.steps)
                if case not in best or measured["cpu_ms"] < best[case]["cpu_ms"]:
                    best[case] = measured
    plain = next(iter(best.values()))["cpu_ms"]
    rows = [{"case": case, **row, "ratio": row["cpu_ms"] / plain} for case, row in best.items()]
    print_table(rows)
    if options.out:
        save(rows, options.out)


def _measure(shards: str, settings: Mapping[str, Any], steps: int) -> dict[str, float]:
    """Read some batches of a stream; return the cost of an image and its padding."""
    config = RunConfig.model_validate(
        {
            "model": {"num_classes": len(read_manifest(shards).categories)},
            "data": {"decode_threads": os.cpu_count(), **settings},
            "train": {"global_batch": BATCH},
        }
    )
    begin, cpu_begin = time.perf_counter(), time.process_time()
    padded = used = 0
    with open_local_stream(config, shards, 0, 1, 0, steps) as stream:
        for batch in stream:
            padded += len(batch.images) * batch.images.canvas.height * batch.images.canvas.width
            used += sum(size.height * size.width for size in batch.images.sizes)
    return {
        "cpu_ms": 1000 * (time.process_time() - cpu_begin) / (steps * BATCH),
        "images_per_s": steps * BATCH / (time.perf_counter() - begin),
        "padded_pixels": padded / used,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_dataset_options(parser, count=400)
    parser.add_argument("--steps", type=int, default=25, help="batches per case and round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the best counts")
    parser.add_argument("--out", type=Path, help="JSON file for the rows and the machine")
    return parse_options(parser)


if __name__ == "__main__":
    main()
