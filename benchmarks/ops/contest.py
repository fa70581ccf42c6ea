"""Two ways to compute the same thing, and how they are timed and compared."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.machine import Row


@dataclass(frozen=True)
class Contest:
    """Two functions that should give the same tensors."""

    op: str
    size: str
    ours: Callable[[], Tensor | list[Tensor]]
    peer_name: str
    peer: Callable[[], Tensor | list[Tensor]]
    same_result: bool = True


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
