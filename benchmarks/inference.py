"""Inference, from images to detections: our detectors and torchvision's with the same weights.

    python -m benchmarks.inference --device cpu --short-side 800 --models mask_rcnn retinanet

Both sides take uint8 images and return boxes, scores, labels and, depending on the model, bitmaps
of full size or keypoints. A second row for Mask R-CNN returns run-length encoded masks instead;
torchvision's users encode its bitmaps with pycocotools, but the peer's time in that row is for the
bitmaps alone.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.machine import print_table, save
from benchmarks.peers import (
    MODELS,
    Image,
    autocast_to,
    build_ours,
    build_peer,
    read_images,
    time_alternately,
)
from model import Predictor
from ops_cuda import backend


def main() -> None:
    options = _parse()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    long_side = round(options.short_side * 1333 / 800)
    images = read_images(options.images, options.count)
    print(backend())
    rows = []
    for model in options.models:
        peer = build_peer(model, options.short_side, long_side, device).eval()
        ours = build_ours(peer, options.short_side, long_side, device)
        settings = {
            "model": model,
            "device": options.device,
            "precision": options.precision,
            "short_side": options.short_side,
        }
        for batch in options.batches:
            with autocast_to(options.precision, device):
                measured = _measure(peer, ours, images, batch, options.repeats, device)
            rows += [{**settings, **row} for row in measured]
    print_table(rows)
    if options.out:
        save(rows, options.out)


def _measure(
    peer: nn.Module,
    ours: Predictor,
    images: Sequence[Image],
    batch: int,
    repeats: int,
    device: torch.device,
) -> list[dict[str, object]]:
    objects = {"peer": 0, "ours": 0}
    has_masks = ours.config.mask is not None

    def run_peer() -> None:
        objects["peer"] = 0
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                tensors = [
                    torch.from_numpy(image).to(device).permute(2, 0, 1).float() / 255
                    for image in images[start : start + batch]
                ]
                for result in peer(tensors):
                    if has_masks:
                        (result["masks"][:, 0] > 0.5).cpu()
                    objects["peer"] += len(result["boxes"].cpu())

    def run_ours() -> None:
        objects["ours"] = 0
        for detections in ours.predict(images, batch):
            if has_masks:
                detections.bitmaps()
            objects["ours"] += len(detections)

    def run_ours_encoded() -> None:
        for detections in ours.predict(images, batch):
            detections.rle()

    cases = {"objects": run_ours}
    if has_masks:
        cases = {"bitmaps": run_ours, "rle": run_ours_encoded}
    peer_ms, *ours_ms = (
        batch_ms / len(images)
        for batch_ms in time_alternately((run_peer, *cases.values()), repeats, device)
    )
    return [
        {
            "case": f"{case}, batch {batch}",
            "peer_ms": peer_ms,
            "ours_ms": case_ms,
            "ratio": peer_ms / case_ms,
            "peer_objects": objects["peer"] / len(images),
            "our_objects": objects["ours"] / len(images),
        }
        for case, case_ms in zip(cases, ours_ms, strict=True)
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=MODELS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--short-side", type=int, default=800, help="pixels")
    parser.add_argument("--images", type=Path, help="folder of images; default: synthetic images")
    parser.add_argument("--count", type=int, default=4, help="number of images")
    parser.add_argument("--batches", type=int, nargs="+", default=(1,), help="images per batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, help="JSON file for the rows and the machine")
    return parser.parse_args()


if __name__ == "__main__":
    main()
