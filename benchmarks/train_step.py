"""Training step (forward, losses, backward, SGD): our detectors and torchvision's.

    python -m benchmarks.train_step --device cpu --short-side 800 --batch 2

Same weights, images and objects; stem, first stage and norm layers frozen; 512 proposals sampled
per image. Ours is a step of the training loop, with a batch as the stream delivers it;
torchvision's is that of its reference scripts. torchvision takes the masks as bitmaps, ours as
polygons; both are in the memory of the host beforehand, and copied to the device in the step.
With ``--conventions recipe`` ours follows the conventions of its 1x recipe, not torchvision's: mask
targets are then rasterized inside each ROI.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.host_calls import find_waits, profile_step
from benchmarks.machine import print_table, save
from benchmarks.peers import (
    MODELS,
    autocast_to,
    build_ours,
    build_peer,
    draw_ellipses,
    read_images,
    recipe_conventions,
    resize_images,
    time_alternately,
)
from model import Detector
from model.preprocess import pad_batch
from model.structures import (
    BatchTargets,
    ImageBatch,
    ImageSize,
    PolygonMasks,
    Targets,
    join_targets,
)
from model.structures.transfer import map_tensors
from ops_cuda import backend, rasterize_polygons
from pipeline.config import OptimizerConfig
from pipeline.train.loop import LoopPlan, TrainingLoop
from pipeline.train.optimizer import build_optimizer
from pipeline.train.precision import Precision


@dataclass(frozen=True)
class Batch:
    """A batch as the loop reads it; that of the stream needs the packages of the pipeline."""

    images: ImageBatch
    targets: BatchTargets


def main() -> None:
    options = _parse()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(backend())
    rows = [row for model in options.models for row in _measure(model, options, device)]
    print_table(rows)
    if options.out:
        save(rows, options.out)


def _measure(
    model: str, options: argparse.Namespace, device: torch.device
) -> list[dict[str, object]]:
    """Return a row for each kind of conventions."""
    long_side = round(options.short_side * 1333 / 800)
    peer = build_peer(model, options.short_side, long_side, device).train()
    images = resize_images(
        read_images(options.images, options.batch), options.short_side, long_side
    )
    sizes = [ImageSize(*image.shape[:2]) for image in images]
    stated = {"torchvision": None, "recipe": recipe_conventions(model)}
    ours = [
        build_ours(peer, options.short_side, long_side, device, stated[name]).detector.train()
        for name in options.conventions
    ]
    classes = ours[0].config.num_classes
    objects = [
        draw_ellipses(size, options.objects, classes, seed) for seed, size in enumerate(sizes)
    ]
    images_of_batch = pad_batch(images, sizes, range(len(images)))
    peer_images = [image.permute(2, 0, 1).float() / 255 for image in images]
    peer_targets = [_as_peer_target(t, size) for t, size in zip(objects, sizes, strict=True)]
    peer_call = _peer_step(peer, peer_images, peer_targets, options.precision, device)
    calls = [
        _our_step(each, _in_memory(images_of_batch, _join(each, objects), device), options, device)
        for each in ours
    ]
    peer_ms, *times_ms = time_alternately([peer_call, *calls], options.repeats, device)
    return [
        {
            "model": model,
            "conventions": name,
            "device": options.device,
            "precision": options.precision,
            "short_side": options.short_side,
            "batch": options.batch,
            "objects": options.objects,
            "peer_ms": peer_ms,
            "ours_ms": ours_ms,
            "ratio": peer_ms / ours_ms,
            "peer_mib": _peak_memory(peer_call, device),
            "our_mib": _peak_memory(call, device),
            **_describe_host(call, device, options.profile),
        }
        for name, call, ours_ms in zip(options.conventions, calls, times_ms, strict=True)
    ]


def _in_memory(images: ImageBatch, targets: BatchTargets, device: torch.device) -> Batch:
    """Return the batch in page-locked memory for a GPU, as the stream allocates it."""
    batch = Batch(images, targets)
    return map_tensors(batch, Tensor.pin_memory) if device.type == "cuda" else batch


def _describe_host(
    call: Callable[[], None], device: torch.device, path: Path | None
) -> dict[str, object]:
    """Return what the host does in a step; None on the CPU.

    Of the waits, one for an event is meant: ``model/heads/count_on_host.py``.
    """
    calls, places = profile_step(call, device, path), find_waits(call, device)
    return {
        "our_launches": None if calls is None else calls.launches,
        "our_waits": None if calls is None else calls.waits,
        "our_waits_at": places,
    }


def _our_step(
    detector: Detector, batch: Batch, options: argparse.Namespace, device: torch.device
) -> Callable[[], None]:
    """Return a function that takes a step of the training loop."""
    loop = TrainingLoop(
        model=detector,
        optimizer=build_optimizer(detector, OptimizerConfig()),
        # A learning rate of zero, so that the weights and the amount of work stay the same.
        lr_schedule=lambda step: 0.0,
        precision=Precision(options.precision, device),
        device=device,
        plan=LoopPlan(0, sys.maxsize, images_per_step=len(batch.images), log_every=sys.maxsize),
    )
    return lambda: loop.train_step(0, iter([batch]))


def _join(detector: Detector, objects: Sequence[Targets]) -> BatchTargets:
    """Return the objects in the form in which the stream delivers them."""
    keypoints = detector.config.keypoint
    return join_targets(
        objects,
        torch.device("cpu"),
        with_masks=detector.config.mask is not None,
        num_keypoints=len(keypoints.names) if keypoints else 0,
    )


def _peer_step(
    peer: nn.Module,
    images: Sequence[Tensor],
    targets: Sequence[Mapping[str, Tensor]],
    precision: str,
    device: torch.device,
) -> Callable[[], None]:
    """Return a function that takes a step as torchvision's reference scripts do."""
    trainable = [parameter for parameter in peer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.0, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def step() -> None:
        on_device = [image.to(device) for image in images]
        moved = [{key: value.to(device) for key, value in each.items()} for each in targets]
        with autocast_to(precision, device):
            loss = sum(peer(on_device, moved).values())
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def _as_peer_target(target: Targets, size: ImageSize) -> dict[str, Tensor]:
    """Return the objects in torchvision's form; its models ignore keys that they do not need."""
    if not isinstance(target.masks, PolygonMasks):
        raise TypeError(f"masks must be polygons; got {type(target.masks).__name__}")
    side = max(size)
    bitmaps = rasterize_polygons(
        target.masks.vertices,
        target.masks.polygon_offsets,
        target.masks.object_offsets,
        torch.arange(len(target)),
        torch.tensor([[0.0, 0.0, side, side]]).repeat(len(target), 1),
        side,
    )
    masks = bitmaps[:, : size.height, : size.width].byte()
    tensors = {"boxes": target.boxes, "labels": target.labels, "masks": masks}
    if target.keypoints is not None:
        tensors["keypoints"] = target.keypoints
    return tensors


def _peak_memory(call: Callable[[], None], device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device) / 2**20


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=MODELS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--short-side", type=int, default=800, help="pixels")
    parser.add_argument("--images", type=Path, help="folder of images; default: synthetic images")
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--objects", type=int, default=7, help="objects per image")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, help="JSON file for the rows and the machine")
    parser.add_argument(
        "--conventions",
        choices=("torchvision", "recipe"),
        nargs="+",
        default=("torchvision",),
        help="conventions that ours follows; a row each",
    )
    parser.add_argument(
        "--profile", type=Path, help="JSON file for the kernels of one step, by time"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
