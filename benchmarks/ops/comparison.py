"""Timing and comparison of two implementations of the same computation."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.machine import Row


@dataclass(frozen=True)
class Comparison:
    """Two functions that compute the same tensors."""

    op: str
    size: str
    ours: Callable[[], Tensor | list[Tensor]]
    peer_name: str
    peer: Callable[[], Tensor | list[Tensor]]
    same_result: bool = True


def fastest_ms(run: Callable[[], object], device: torch.device, budget_s: float) -> float:
    """Return the time of the fastest of several runs after a warm-up run, in milliseconds."""
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


def largest_difference(comparison: Comparison) -> float | None:
    """Return the largest difference of the two results; None if they are not comparable."""
    if not comparison.same_result:
        return None
    actual, expected = comparison.ours(), comparison.peer()
    pairs = zip(
        actual if isinstance(actual, list) else [actual],
        expected if isinstance(expected, list) else [expected],
        strict=True,
    )
    differences = []
    for one, other in pairs:
        if one.shape != other.shape:
            return None
        # kept indices: torchvision does not define the order of equal scores
        if one.dtype == torch.int64:
            one, other = one.sort().values, other.sort().values
        differences.append((one.double() - other.double()).abs().max().item())
    return max(differences)


def measure(comparison: Comparison, device: torch.device, budget_s: float) -> Row:
    """Time both functions and return one row of the table."""
    ours = fastest_ms(comparison.ours, device, budget_s)
    peer = fastest_ms(comparison.peer, device, budget_s)
    return {
        "op": comparison.op,
        "size": comparison.size,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "ours_ms": round(ours, 4),
        "peer": comparison.peer_name,
        "peer_ms": round(peer, 4),
        "ratio": round(peer / ours, 2),
        "max_error": largest_difference(comparison),
    }
