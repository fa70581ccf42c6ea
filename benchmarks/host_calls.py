"""What the host does during a step on a GPU: how often it launches kernels, and where it waits."""

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
# A copy without "Async" returns when it is done.
WAITS = (
    *("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize"),
    *("cuCtxSynchronize", "cuStreamSynchronize", "cuEventSynchronize"),
    *("cudaMemcpy", "cudaMemcpy2D", "cudaMemcpyToSymbol", "cudaMemcpyFromSymbol", "cudaMemset"),
)


class HostCalls(NamedTuple):
    """Calls of the CUDA runtime and driver.

    Args:
        launches: kernels and graphs launched.
        waits: calls in which the host waits for the GPU.
    """

    launches: int
    waits: int


def count_calls(calls: Iterable[tuple[str, int]]) -> HostCalls:
    """Count launches and waits.

    Args:
        calls: name of a function of the runtime or driver, and how often it was called.
    """
    launches = waits = 0
    for name, count in calls:
        # Names may end with a version: cudaLaunchKernelExC_v11060.
        if name.startswith(LAUNCHES):
            launches += count
        elif name.partition("_v")[0] in WAITS:
            waits += count
    return HostCalls(launches, waits)


def profile_step(
    call: Callable[[], None], device: torch.device, path: Path | None = None
) -> HostCalls | None:
    """Profile one step; return what the host did, None on the CPU.

    Args:
        call: takes the step.
        device: where it computes.
        path: JSON file for the kernels, the longest first; None writes none.
    """
    if device.type != "cuda" and path is None:
        return None
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        # The profiler waits for the GPU itself.
        own = _profile(lambda: None, activities)
    events = _profile(call, activities)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_kernels(events, device), indent=1) + "\n")
    if device.type != "cuda":
        return None
    measured, baseline = (
        count_calls((event.key, event.count) for event in each) for each in (events, own)
    )
    return HostCalls(measured.launches - baseline.launches, measured.waits - baseline.waits)


def find_waits(call: Callable[[], None], device: torch.device) -> Mapping[str, int] | None:
    """Take a step in torch's debug mode for syncs; return how often it waits at each source line.

    The mode does not see events, and lines of the backward pass are those of ``backward``.
    """
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places = [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]
    return {place: places.count(place) for place in dict.fromkeys(places)}


def _profile(call: Callable[[], None], activities: Iterable[ProfilerActivity]) -> list[object]:
    with profile(activities=activities) as profiler:
        call()
    return list(profiler.key_averages())


def _kernels(events: Iterable[object], device: torch.device) -> list[dict[str, object]]:
    """Return name, number of calls and milliseconds of each kernel, or operator on the CPU."""
    kind = "device" if device.type == "cuda" else "cpu"
    rows = [
        {
            "name": event.key,
            "calls": event.count,
            "self_ms": getattr(event, f"self_{kind}_time_total") / 1000,
        }
        for event in events
    ]
    rows = [row for row in rows if row["self_ms"]]
    return sorted(rows, key=lambda row: row["self_ms"], reverse=True)
