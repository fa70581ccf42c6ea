"""What training learns over time: our detector against torchvision's in a plain loop.

    python -m benchmarks.learning_curve --annotations instances_train2017.json --images train2017

Both train Mask R-CNN R18-FPN from the same initial weights, on the same images in the same order,
with the same optimizer and schedule, and are evaluated on these training images. They take turns
step by step, so that other load affects both alike. Ours reads shards through the stream, and
decodes while it trains; the images and bitmaps of torchvision's loop are in memory beforehand.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt

from benchmarks.input_dataset import (
    add_dataset_options,
    dataset_files,
    parse_options,
    prepare_shards,
)
from benchmarks.learning_sides import LearningSettings, OurTraining, PlainTraining, new_weights
from benchmarks.machine import print_table, save
from pipeline.evaluate.coco_metrics import coco_metrics
from pipeline.shards.coco_ground_truth import coco_ground_truth

_METRICS = ("bbox/AP", "segm/AP")


def main() -> None:
    options = _parse()
    torch.set_num_threads(options.threads)
    settings = LearningSettings(
        options.short_side, options.batch, options.steps, options.learning_rate
    )
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="learning-curve-") as scratch:
        folder = Path(scratch)
        annotations, images = dataset_files(options, folder)
        subset = _first_images(annotations, options.count, folder / "subset.json")
        shards = prepare_shards(subset, images, folder / "shards")
        for seed in range(options.seeds):
            new_rows = _train_both(settings, options.every, shards, images, folder, seed)
            print_table(new_rows)
            rows += new_rows
            # After each seed: a run of hours that is stopped keeps what it measured.
            save(rows, options.out)
            _plot(rows, options.out.with_suffix(".png"))


def _train_both(
    settings: LearningSettings, every: int, shards: str, images: Path, folder: Path, seed: int
) -> list[dict[str, object]]:
    """Train both from the weights of one seed; return a row for each evaluation of each."""
    weights = new_weights(settings, shards, seed, folder / f"weights-{seed}.pth")
    ground_truth = coco_ground_truth(shards)
    rows: list[dict[str, object]] = []
    with OurTraining(settings, shards, weights, seed) as ours:
        peer = PlainTraining(settings, shards, images, weights)
        for step in range(1, settings.steps + 1):
            peer.step(ours.step())
            if step % every and step != settings.steps:
                continue
            for name, side in (("ours", ours), ("torchvision", peer)):
                metrics = coco_metrics(ground_truth, side.detect())
                row = {"case": name, "seed": seed, "step": step, "minutes": side.seconds / 60}
                rows.append(row | {metric: metrics.values[metric] for metric in _METRICS})
                print(*(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows


def _first_images(annotations: Path, count: int, target: Path) -> Path:
    """Write the first ``count`` images that have objects, with the categories that occur."""
    document = json.loads(annotations.read_text())
    objects = [each for each in document["annotations"] if not each.get("iscrowd")]
    with_objects = {each["image_id"] for each in objects}
    chosen = [image for image in document["images"] if image["id"] in with_objects][:count]
    ids = {image["id"] for image in chosen}
    kept = [each for each in objects if each["image_id"] in ids]
    present = {each["category_id"] for each in kept}
    categories = [each for each in document["categories"] if each["id"] in present]
    target.write_text(json.dumps({"images": chosen, "annotations": kept, "categories": categories}))
    return target


def _plot(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Draw AP over minutes and over steps, one line for each training."""
    mpl.use("Agg")
    figure, axes = plt.subplots(
        len(_METRICS), 2, figsize=(9, 6), sharey="row", layout="constrained"
    )
    colors = {"ours": "tab:blue", "torchvision": "tab:orange"}
    trainings = dict.fromkeys((row["case"], row["seed"]) for row in rows)
    for metric, (over_time, over_steps) in zip(_METRICS, axes, strict=True):
        for case, seed in trainings:
            points = [row for row in rows if (row["case"], row["seed"]) == (case, seed)]
            values = [row[metric] for row in points]
            label = str(case) if seed == 0 else None
            style = {"color": colors[str(case)], "label": label}
            over_time.plot([row["minutes"] for row in points], values, **style)
            over_steps.plot([row["step"] for row in points], values, **style)
        over_time.set(ylabel=f"{metric} on the training images", xlabel="minutes of training")
        over_steps.set(xlabel="steps")
        over_time.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_dataset_options(parser, count=24)
    parser.add_argument("--short-side", type=int, default=256, help="pixels")
    parser.add_argument("--batch", type=int, default=4, help="images per step")
    parser.add_argument("--steps", type=int, default=600, help="of each training")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--every", type=int, default=60, help="steps between evaluations")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each kind")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON file; the plot lies beside it"
    )
    return parse_options(parser)


if __name__ == "__main__":
    main()
