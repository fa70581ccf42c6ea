"""Pictures to objects on the picture: our detectors and torchvision's, same weights, same machine.

    python -m benchmarks.inference --device cpu --short-side 800 --models mask_rcnn retinanet

Either side gets uint8 pictures and gives boxes, scores, labels and, of their models, full-size
bitmaps or keypoints. Another row of Mask R-CNN gives run-length encoded masks instead, which
torchvision's users take from its bitmaps with pycocotools; there the peer's time is that of its
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
    Picture,
    autocast_to,
    build_ours,
    build_peer,
    read_pictures,
    time_alternately,
)
from model import Detector
from ops_cuda import backend


def main() -> None:
    options = _parse()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    long_side = round(options.short_side * 1333 / 800)
    pictures = read_pictures(options.images, options.count)
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
                measured = _measure(peer, ours, pictures, batch, options.repeats, device)
            rows += [{**settings, **row} for row in measured]
    print_table(rows)
    if options.out:
        save(rows, options.out)


def _measure(
    peer: nn.Module,
    ours: Detector,
    pictures: Sequence[Picture],
    batch: int,
    repeats: int,
    device: torch.device,
) -> list[dict[str, object]]:
    found = {"peer": 0, "ours": 0}
    has_masks = ours.config.mask is not None

    def run_peer() -> None:
        found["peer"] = 0
        with torch.inference_mode():
            for start in range(0, len(pictures), batch):
                tensors = [
                    torch.from_numpy(picture).to(device).permute(2, 0, 1).float() / 255
                    for picture in pictures[start : start + batch]
                ]
                for result in peer(tensors):
                    if has_masks:
                        (result["masks"][:, 0] > 0.5).cpu()
                    found["peer"] += len(result["boxes"].cpu())

    def run_ours() -> None:
        found["ours"] = 0
        for one in ours.predict(pictures, batch):
            if has_masks:
                one.bitmaps()
            found["ours"] += len(one)

    def run_ours_encoded() -> None:
        for one in ours.predict(pictures, batch):
            one.rle()

    cases = {"objects": run_ours}
    if has_masks:
        cases = {"bitmaps": run_ours, "rle": run_ours_encoded}
    peer_ms, *ours_ms = (
        taken / len(pictures)
        for taken in time_alternately((run_peer, *cases.values()), repeats, device)
    )
    return [
        {
            "case": f"{case}, batch {batch}",
            "peer_ms": peer_ms,
            "ours_ms": taken,
            "ratio": peer_ms / taken,
            "peer_objects": found["peer"] / len(pictures),
            "our_objects": found["ours"] / len(pictures),
        }
        for case, taken in zip(cases, ours_ms, strict=True)
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=MODELS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--short-side", type=int, default=800, help="pixels")
    parser.add_argument("--images", type=Path, help="folder of pictures; default synthetic ones")
    parser.add_argument("--count", type=int, default=4, help="pictures")
    parser.add_argument("--batches", type=int, nargs="+", default=(1,), help="pictures per batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, help="JSON file for the rows and the machine's facts")
    return parser.parse_args()


if __name__ == "__main__":
    main()
