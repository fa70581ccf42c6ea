"""Inference, from images to detections: our detectors and others with the same weights.

    python -m benchmarks.inference --models mask_rcnn retinanet --peers torchvision
    python -m benchmarks.inference --peers torchvision openvino onnxruntime --images FOLDER

The peers are torchvision's detector, and OpenVINO and onnxruntime running that detector exported to
ONNX, in float32 with as many threads. All take uint8 images and return boxes, scores, labels and,
depending on the model, bitmaps of full size or keypoints; rounds take turns. A second row for Mask
R-CNN returns run-length encoded masks instead; users of the peers encode bitmaps with pycocotools,
but the peer's time in that row is for the bitmaps alone. ``equal`` is the share of detections that
are equal within the tolerances of ``benchmarks.agreement``; with keypoints only their objects are
compared.
"""

import argparse
import importlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from benchmarks.agreement import count_equal
from benchmarks.machine import print_table, save
from benchmarks.peers import (
    LIGHT,
    MODELS,
    Image,
    autocast_to,
    build_ours,
    build_peer,
    read_images,
    time_alternately,
)
from benchmarks.runtimes import (
    PEERS,
    Results,
    RunImage,
    export_peer,
    open_runtime,
    to_tensor,
    version_of,
)
from model import Predictor
from ops_cuda import backend

SHORT_SIDE, LIGHT_SHORT_SIDE = 800, 480
RunBatch = Callable[[Sequence[Image]], list[Results]]
"""Detect objects in a batch of images; bitmaps, if there are any, are bool (D, H, W)."""


def main() -> None:
    options = _parse()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    images = read_images(options.images, options.count)
    print(backend())
    rows: list[dict[str, object]] = []
    for model in options.models:
        rows += _measure_model(model, options, images, device)
    print_table(rows)
    if options.out:
        save(rows, options.out)


def _measure_model(
    model: str, options: argparse.Namespace, images: Sequence[Image], device: torch.device
) -> list[dict[str, object]]:
    short_side = options.short_side or (LIGHT_SHORT_SIDE if model == LIGHT else SHORT_SIDE)
    long_side = round(short_side * 1333 / 800)
    peer = build_peer(model, short_side, long_side, device).eval()
    ours = build_ours(peer, short_side, long_side, device)
    settings = {
        "model": model,
        "device": options.device,
        "precision": options.precision,
        "short_side": short_side,
    }
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        peers = _open_peers(options.peers, peer, images[0], Path(folder) / "peer.onnx", device)
        for batch in options.batches:
            with autocast_to(options.precision, device):
                measured = _measure(peers, ours, images, batch, options.repeats, device)
            rows += [{**settings, **row} for row in measured]
    return rows


def _open_peers(
    names: Sequence[str], peer: nn.Module, image: Image, path: Path, device: torch.device
) -> dict[str, RunBatch]:
    """Return the peers by name; one that is not installed is named and left out."""
    peers: dict[str, RunBatch] = {}
    outputs: tuple[str, ...] = ()
    for name in names:
        if name == "torchvision":
            peers[name] = _run_torchvision(peer, device)
            continue
        try:
            importlib.import_module(name)  # before the export, which takes a minute
            outputs = outputs or export_peer(peer, image, path)
            peers[name] = _run_runtime(open_runtime(name, path, outputs, torch.get_num_threads()))
        except ImportError as error:
            print(f"left out {name}: {error}. pip install 'maskrcnn-ray[bench]'")
    return peers


def _run_torchvision(peer: nn.Module, device: torch.device) -> RunBatch:
    @torch.inference_mode()
    def run(images: Sequence[Image]) -> list[Results]:
        results = peer([to_tensor(image).to(device) for image in images])
        return [{name: value.cpu() for name, value in _bitmaps(r).items()} for r in results]

    return run


def _run_runtime(run_image: RunImage) -> RunBatch:
    return lambda images: [_bitmaps(run_image(image)) for image in images]


def _bitmaps(results: Results) -> Results:
    """Return results of torchvision with masks as bool (D, H, W) instead of probabilities."""
    if "masks" not in results:
        return results
    return {**results, "masks": results["masks"][:, 0] > 0.5}


def _measure(
    peers: Mapping[str, RunBatch],
    ours: Predictor,
    images: Sequence[Image],
    batch: int,
    repeats: int,
    device: torch.device,
) -> list[dict[str, object]]:
    batches = [images[start : start + batch] for start in range(0, len(images), batch)]
    has_masks = ours.config.mask is not None

    def run_ours() -> None:
        for detections in ours.predict(images, batch):
            if has_masks:
                detections.bitmaps()

    def run_ours_encoded() -> None:
        for detections in ours.predict(images, batch):
            detections.rle()

    def run_peer(run: RunBatch) -> Callable[[], None]:
        def run_batches() -> None:
            for some in batches:
                run(some)

        return run_batches

    cases = {"bitmaps": run_ours, "rle": run_ours_encoded} if has_masks else {"objects": run_ours}
    calls = [*map(run_peer, peers.values()), *cases.values()]
    times = [ms / len(images) for ms in time_alternately(calls, repeats, device)]
    counts = {name: _compare(run, batches, ours, images, batch) for name, run in peers.items()}
    return [
        {
            "case": f"{case}, batch {batch}",
            "peer": name,
            "peer_version": version_of(name),
            "peer_ms": peer_ms,
            "ours_ms": case_ms,
            "ratio": peer_ms / case_ms,
            **counts[name],
        }
        for name, peer_ms in zip(peers, times, strict=False)
        for case, case_ms in zip(cases, times[len(peers) :], strict=True)
    ]


def _compare(
    run: RunBatch,
    batches: Sequence[Sequence[Image]],
    ours: Predictor,
    images: Sequence[Image],
    batch: int,
) -> dict[str, float]:
    """Return the detections per image of both, and the share that is equal."""
    theirs = [results for some in batches for results in run(some)]
    detections = ours.predict(images, batch)
    equal = sum(count_equal(a, b) for a, b in zip(detections, theirs, strict=True))
    largest = sum(max(len(a), len(b["scores"])) for a, b in zip(detections, theirs, strict=True))
    return {
        "peer_objects": sum(len(results["scores"]) for results in theirs) / len(images),
        "our_objects": sum(map(len, detections)) / len(images),
        "equal": equal / largest if largest else 1.0,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=(*MODELS, LIGHT), nargs="+", default=(*MODELS, LIGHT))
    parser.add_argument("--peers", choices=PEERS, nargs="+", default=PEERS[:1])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument(
        "--short-side",
        type=int,
        help=f"pixels; default: {SHORT_SIDE}, and {LIGHT_SHORT_SIDE} for {LIGHT}",
    )
    parser.add_argument("--images", type=Path, help="folder of images; default: synthetic images")
    parser.add_argument("--count", type=int, default=4, help="number of images")
    parser.add_argument("--batches", type=int, nargs="+", default=(1,), help="images per batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, help="JSON file for the rows and the machine")
    options = parser.parse_args()
    exported = [peer for peer in options.peers if peer != "torchvision"]
    if exported and (options.device, options.precision) != ("cpu", "fp32"):
        parser.error(f"only on the CPU in fp32: {', '.join(exported)}")
    return options


if __name__ == "__main__":
    main()
