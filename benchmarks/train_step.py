"""Training step (forward, losses, backward, SGD): our detectors and torchvision's.

    python -m benchmarks.train_step --device cpu --short-side 800 --batch 2

Same weights, images and objects; stem, first stage and norm layers frozen; 512 proposals sampled
per image. torchvision takes the masks as bitmaps, ours as polygons; both are prepared beforehand.
"""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import print_table, save
from benchmarks.peers import (
    MODELS,
    autocast_to,
    build_ours,
    build_peer,
    draw_ellipses,
    read_images,
    resize_images,
    time_alternately,
)
from model.preprocess import pad_batch
from model.structures import ImageSize, PolygonMasks, Targets
from ops_cuda import backend, rasterize_polygons


def main() -> None:
    options = _parse()
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(backend())
    rows = [_measure(model, options, device) for model in options.models]
    print_table(rows)
    if options.out:
        save(rows, options.out)


def _measure(model: str, options: argparse.Namespace, device: torch.device) -> dict[str, object]:
    long_side = round(options.short_side * 1333 / 800)
    peer = build_peer(model, options.short_side, long_side, device).train()
    ours = build_ours(peer, options.short_side, long_side, device).detector.train()
    images = resize_images(
        read_images(options.images, options.batch), options.short_side, long_side
    )
    sizes = [ImageSize(*image.shape[:2]) for image in images]
    classes = ours.config.num_classes
    objects = [
        draw_ellipses(size, options.objects, classes, seed) for seed, size in enumerate(sizes)
    ]
    batch = pad_batch(images, sizes, range(len(images))).to(device)
    targets = [target.to(device) for target in objects]
    peer_images = [image.permute(2, 0, 1).to(device).float() / 255 for image in images]
    peer_targets = [
        _as_peer_target(t, size, device) for t, size in zip(objects, sizes, strict=True)
    ]

    def peer_loss() -> Tensor:
        return sum(peer(peer_images, [dict(target) for target in peer_targets]).values())

    def our_loss() -> Tensor:
        return sum(term.total / term.count.clamp(min=1) for term in ours(batch, targets).values())

    def autocast() -> AbstractContextManager[object]:
        return autocast_to(options.precision, device)

    calls = [_step(peer, peer_loss, autocast), _step(ours, our_loss, autocast)]
    peer_ms, ours_ms = time_alternately(calls, options.repeats, device)
    launches, syncs = _count_host_calls(calls[1], device, options.profile)
    return {
        "model": model,
        "device": options.device,
        "precision": options.precision,
        "short_side": options.short_side,
        "batch": options.batch,
        "objects": options.objects,
        "peer_ms": peer_ms,
        "ours_ms": ours_ms,
        "ratio": peer_ms / ours_ms,
        "peer_mib": _peak_memory(calls[0], device),
        "our_mib": _peak_memory(calls[1], device),
        "our_launches": launches,
        "our_syncs": syncs,
    }


def _step(
    model: nn.Module,
    compute_loss: Callable[[], Tensor],
    autocast: Callable[[], AbstractContextManager[object]],
) -> Callable[[], None]:
    # A learning rate of zero, so that the weights and the amount of work stay the same.
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.0, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        with autocast():
            loss = compute_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def _as_peer_target(target: Targets, size: ImageSize, device: torch.device) -> dict[str, Tensor]:
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
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _peak_memory(call: Callable[[], None], device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device) / 2**20


def _count_host_calls(
    call: Callable[[], None], device: torch.device, path: Path | None
) -> tuple[int | None, int | None]:
    """Profile one step; return its kernel launches and device syncs, None on the CPU.

    Args:
        call: takes the step.
        device: where it computes.
        path: file for the kernels by time; None writes none.
    """
    if device.type != "cuda" and path is None:
        return None, None
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        call()
    averages = profiler.key_averages()
    if path is not None:
        order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
        path.write_text(
            averages.table(sort_by=order, row_limit=60, max_name_column_width=80) + "\n"
        )
    if device.type != "cuda":
        return None, None

    def count(*names: str) -> int:
        return sum(event.count for event in averages if event.key.startswith(names))

    return count("cudaLaunchKernel", "cuLaunchKernel"), count(
        "cudaStreamSynchronize", "cudaDeviceSynchronize"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=MODELS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--short-side", type=int, default=800, help="pixels")
    parser.add_argument("--images", type=Path, help="folder of images; default: synthetic images")
    parser.add_argument("--batch", type=int, default=2, help="images per step")
    parser.add_argument("--objects", type=int, default=7, help="objects per image")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--out", type=Path, help="JSON file for the rows and the machine")
    parser.add_argument(
        "--profile", type=Path, help="text file for the kernels of one step, by time"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
