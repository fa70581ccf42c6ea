"""Every operator of ours beside the torchvision code that does the same.

    python -m benchmarks.ops                      CPU, 1 thread and all threads
    python -m benchmarks.ops --device cuda

Needs torch and torchvision alone. Peers get the layout and type that torchvision's own detector
gives them; `max_error` compares the two results of the same inputs.
"""

import argparse
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

import ops_cuda
from benchmarks.machine import RESULTS, Row, print_table, save

HEIGHT, WIDTH = 800, 1088
SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
LEVELS = ["p2", "p3", "p4", "p5"]


@dataclass(frozen=True)
class Contest:
    """Two functions that should give the same tensors."""

    op: str
    size: str
    ours: Callable[[], Tensor | list[Tensor]]
    peer_name: str
    peer: Callable[[], Tensor | list[Tensor]]
    same_result: bool = True


def random_boxes(count: int, largest: float, device: torch.device) -> Tensor:
    """(N, 4) boxes on an 800 x 1088 image."""
    generator = torch.Generator().manual_seed(count)
    size = torch.tensor([WIDTH, HEIGHT])
    corners = torch.rand(count, 2, generator=generator) * (size - 20)
    sides = 4 + largest * torch.rand(count, 2, generator=generator) ** 2
    return torch.cat([corners, (corners + sides).minimum(size)], 1).to(device)


def nms_contests(device: torch.device) -> Iterator[Contest]:
    """Class-agnostic and class-aware suppression."""
    for count in (1000, 5000, 20_000):
        boxes, scores = random_boxes(count, 200, device), torch.rand(count, device=device)
        classes = torch.randint(0, 80, (count,), device=device)
        yield Contest(
            "nms",
            f"{count} boxes",
            lambda b=boxes, s=scores: ops_cuda.nms(b, s, 0.7),
            "torchvision.ops.nms",
            lambda b=boxes, s=scores: torchvision.ops.nms(b, s, 0.7),
        )
        yield Contest(
            "batched_nms",
            f"{count} boxes, 80 classes",
            lambda b=boxes, s=scores, c=classes: ops_cuda.batched_nms(b, s, c, 0.5),
            "torchvision.ops.batched_nms",
            lambda b=boxes, s=scores, c=classes: torchvision.ops.batched_nms(b, s, c, 0.5),
        )


def roi_align_contests(
    device: torch.device, dtype: torch.dtype, channels_last: bool
) -> Iterator[Contest]:
    """The box head's pooling, 1,000 rois on four levels of 256 channels, and its gradient."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    maps = [
        torch.rand(1, 256, round(HEIGHT * scale), round(WIDTH * scale), device=device)
        .to(dtype)
        .contiguous(memory_format=layout)
        .requires_grad_()
        for scale in SCALES
    ]
    boxes = random_boxes(1000, 500, device)
    rois = torch.cat([boxes.new_zeros(1000, 1), boxes], 1)
    pooler = torchvision.ops.MultiScaleRoIAlign(LEVELS, 7, 2)
    named = OrderedDict(zip(LEVELS, maps, strict=True))

    def ours() -> Tensor:
        return ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7, 2, aligned=False)

    def theirs() -> Tensor:
        return pooler(named, [boxes.to(dtype)], [(HEIGHT, WIDTH)])

    size = f"1000 rois, {'nhwc' if channels_last else 'nchw'} {str(dtype)[6:]}"
    yield Contest("roi_align forward", size, ours, "MultiScaleRoIAlign", theirs)
    pooled, expected = ours(), theirs()
    weights = torch.rand_like(pooled)

    def gradient_of(output: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(output, maps, weights, retain_graph=True))

    yield Contest(
        "roi_align backward",
        size,
        lambda: gradient_of(pooled),
        "MultiScaleRoIAlign",
        lambda: gradient_of(expected),
    )


def mask_contests(device: torch.device) -> Iterator[Contest]:
    """Pasting 100 detections, and the targets of 128 positive rois."""
    masks, boxes = torch.rand(100, 28, 28, device=device), random_boxes(100, 500, device)
    yield Contest(
        "paste_masks",
        f"100 on {HEIGHT}x{WIDTH}",
        lambda: ops_cuda.paste_masks(masks, boxes, HEIGHT, WIDTH, 0.5),
        "paste_masks_in_image > 0.5",
        lambda: (paste_masks_in_image(masks[:, None], boxes, (HEIGHT, WIDTH)) > 0.5)[:, 0],
    )

    objects = random_boxes(16, 500, torch.device("cpu"))
    angles = torch.arange(40) * (2 * torch.pi / 40)
    circle = torch.stack([angles.cos(), angles.sin()], 1) / 2
    centres = (objects[:, :2] + objects[:, 2:]) / 2
    outlines = centres[:, None] + circle * (objects[:, 2:] - objects[:, :2])[:, None]
    offsets = torch.arange(17)
    wanted = (torch.arange(128) % 16).to(device)
    regions = objects[wanted.cpu()].to(device)
    polygons = (outlines.reshape(-1, 2).to(device), (offsets * 40).to(device), offsets.to(device))
    whole = torch.tensor([[0.0, 0.0, WIDTH, WIDTH]]).expand(16, 4)
    bitmaps = ops_cuda.rasterize_polygons(
        outlines.reshape(-1, 2), offsets * 40, offsets, torch.arange(16), whole, WIDTH
    )[:, :HEIGHT].to(device)
    yield Contest(
        "mask targets",
        "128 rois, 16 objects",
        lambda: ops_cuda.rasterize_polygons(*polygons, wanted, regions, 28),
        "project_masks_on_boxes",
        lambda: project_masks_on_boxes(bitmaps, regions, wanted, 28),
        same_result=False,  # averages of a bitmap, not samples of the outline
    )


def contests(device: torch.device) -> Iterator[Contest]:
    """Every comparison that makes sense on ``device``."""
    yield from nms_contests(device)
    yield from roi_align_contests(device, torch.float32, channels_last=True)
    yield from roi_align_contests(device, torch.float32, channels_last=False)
    if device.type == "cuda":
        yield from roi_align_contests(device, torch.bfloat16, channels_last=True)
    yield from mask_contests(device)


def fastest_ms(run: Callable[[], object], device: torch.device, budget_s: float) -> float:
    """The fastest of several runs after one to warm up, milliseconds."""
    times: list[float] = []
    run()
    begin = time.perf_counter()
    while not times or (time.perf_counter() - begin < budget_s and len(times) < 50):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def largest_difference(contest: Contest) -> float | None:
    """Largest difference of the two results; None where they are not the same thing."""
    if not contest.same_result:
        return None
    found, expected = contest.ours(), contest.peer()
    pairs = zip(
        found if isinstance(found, list) else [found],
        expected if isinstance(expected, list) else [expected],
        strict=True,
    )
    differences = []
    for one, other in pairs:
        if one.shape != other.shape:
            return None
        # kept indices: torchvision leaves the order of equal scores open
        if one.dtype == torch.int64:
            one, other = one.sort().values, other.sort().values
        differences.append((one.double() - other.double()).abs().max().item())
    return max(differences)


def measure(contest: Contest, device: torch.device, budget_s: float) -> Row:
    """One row of the table."""
    ours = fastest_ms(contest.ours, device, budget_s)
    peer = fastest_ms(contest.peer, device, budget_s)
    return {
        "op": contest.op,
        "size": contest.size,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "ours_ms": round(ours, 4),
        "peer": contest.peer_name,
        "peer_ms": round(peer, 4),
        "ratio": round(peer / ours, 2),
        "max_error": largest_difference(contest),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file; default results/ops_<device>.json")
    parser.add_argument("--budget-s", type=float, default=1.0, help="seconds per measurement")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(0)
    print(ops_cuda.backend())
    counts = sorted({1, torch.get_num_threads()}) if device.type == "cpu" else [1]
    rows = []
    for threads in counts:
        torch.set_num_threads(threads)
        rows += [measure(contest, device, options.budget_s) for contest in contests(device)]
    print_table(rows)
    save(rows, options.out or RESULTS / f"ops_{device.type}.json")


if __name__ == "__main__":
    main()
