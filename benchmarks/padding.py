"""Padding of training batches: pixels of the padded batch over pixels of its images.

    python -m benchmarks.padding

Batches of 2, 16 and 128 images of COCO's sizes, planned without bins, by orientation, and in our
aspect bins; padded to the canvas of the whole batch or of each worker's micro-batch. Also the
number of distinct canvases, which is how often cudnn tunes or a graph is captured.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import print_table, save
from pipeline.shards.aspect_bins import ASPECT_EDGES

Integers = NDArray[np.int64]

# Images per thousand of train2017 by height and width, roughly; the rest is `_odd_sizes`.
_COMMON_SIZES = {
    (480, 640): 217, (427, 640): 165, (426, 640): 85, (640, 480): 83, (375, 500): 45,
    (640, 427): 38, (428, 640): 33, (425, 640): 32, (640, 426): 20, (333, 500): 20,
    (424, 640): 18, (360, 640): 16, (612, 612): 14, (640, 640): 12, (500, 375): 12,
    (640, 428): 10, (429, 640): 10, (500, 333): 8,
}  # fmt: skip
_BINS = {"none": (), "orientation": (1.0,), "aspect": ASPECT_EDGES}


def main() -> None:
    options = _parse()
    rng = np.random.default_rng(0)
    sizes = coco_like_sizes(options.count, rng)
    if options.annotations:
        images = json.loads(options.annotations.read_text())["images"]
        sizes = rng.choice([(image["height"], image["width"]) for image in images], options.count)
    rows = []
    for short_sides in ((800,), (640, 672, 704, 736, 768, 800)):
        resized = _resize(sizes, short_sides, 1333, rng)
        for name, edges in _BINS.items():
            for batch, images_per_canvas in ((2, 2), (16, 16), (16, 2), (128, 128), (128, 16)):
                batches = _plan(sizes, edges, batch, rng)
                for divisor in options.divisors:
                    ratio, canvases = _pad(resized[batches], images_per_canvas, divisor)
                    rows.append(
                        {
                            "short_sides": "-".join(map(str, sorted({*short_sides[::5]}))),
                            "bins": name,
                            "global_batch": batch,
                            "images_per_canvas": images_per_canvas,
                            "divisor": divisor,
                            "padded_over_content": ratio,
                            "canvases": canvases,
                        }
                    )
    print_table(rows)
    if options.out:
        save(rows, options.out)


def coco_like_sizes(count: int, rng: np.random.Generator) -> Integers:
    """Return (count, 2) heights and widths distributed like COCO's."""
    shares = np.array(list(_COMMON_SIZES.values())) / 1000
    common = rng.choice(list(_COMMON_SIZES), count, p=shares / shares.sum())
    is_odd = rng.random(count) > shares.sum()
    return np.where(is_odd[:, None], _odd_sizes(count, rng), common)


def _odd_sizes(count: int, rng: np.random.Generator) -> Integers:
    """Return sizes with a long side of 640 pixels; three in ten are portrait."""
    short = np.clip(rng.normal(445, 75, count), 150, 640).astype(np.int64)
    sizes = np.stack([short, np.full(count, 640)], 1)
    return np.where(rng.random((count, 1)) < 0.3, sizes[:, ::-1], sizes)


def _resize(
    sizes: Integers, short_sides: Sequence[int], long_side: int, rng: np.random.Generator
) -> Integers:
    short = rng.choice(short_sides, len(sizes))
    scale = np.minimum(short / sizes.min(1), long_side / sizes.max(1))
    return (sizes * scale[:, None] + 0.5).astype(np.int64)


def _plan(
    sizes: Integers, edges: Sequence[float], batch: int, rng: np.random.Generator
) -> Integers:
    """Return (T, batch) images, full batches of each bin; leftovers are negligible."""
    order = rng.permutation(len(sizes))
    bins = np.searchsorted(edges, sizes[order, 1] / sizes[order, 0], side="right")
    sequences = [order[bins == number] for number in range(len(edges) + 1)]
    return np.concatenate(
        [each[: len(each) // batch * batch].reshape(-1, batch) for each in sequences]
    )


def _pad(sizes: Integers, images_per_canvas: int, divisor: int) -> tuple[float, int]:
    """Return padded over content pixels and the number of canvases of (T, B, 2) image sizes."""
    sizes = sizes.reshape(-1, images_per_canvas, 2)
    canvases = -(-sizes.max(1) // divisor) * divisor
    padded = canvases.prod(1).sum() * images_per_canvas
    return float(padded / sizes.prod(2).sum()), len(np.unique(canvases, axis=0))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=Path, help="COCO JSON file with the sizes to draw")
    parser.add_argument("--count", type=int, default=118_000, help="number of images")
    parser.add_argument("--divisors", type=int, nargs="+", default=(32,), help="of the canvas")
    parser.add_argument("--out", type=Path, help="JSON file for the rows and the machine")
    return parser.parse_args()


if __name__ == "__main__":
    main()
