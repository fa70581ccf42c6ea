"""The compiled library `_ops_cuda`: found and loaded once, or replaced by the twins.

It is a top-level extension module, because Ray ships the working directory without git-ignored
files first on the path: inside this package it would be shadowed on workers.
"""

import importlib.util

import torch

from ops_cuda import registration

OPERATORS = (
    "nms",
    "batched_nms",
    "multiscale_roi_align",
    "multiscale_roi_align_backward",
    "rasterize_polygons",
    "paste_masks",
)


def _load() -> str:
    """Load the library; what `backend` says about it."""
    spec = importlib.util.find_spec("_ops_cuda")
    if spec is None or spec.origin is None:
        return "reference (_ops_cuda is not built: pip install -e . --no-build-isolation)"
    try:
        torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]
    except OSError as error:  # built for another torch, or a damaged file
        return f"reference ({spec.origin} does not load: {error})"
    registration.register()
    return f"compiled ({spec.origin})"


def _devices_with_kernels() -> frozenset[str]:
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    devices = {
        device
        for device, key in (("cpu", "CPU"), ("cuda", "CUDA"))
        if all(has_kernel(f"ops_cuda::{name}", key) for name in OPERATORS)
    }
    return frozenset(devices | {"meta"})


# Registering operators is what importing an extension module does; nothing else happens here.
_STATE = _load()
LOADED = _STATE.startswith("compiled")
DEVICES = _devices_with_kernels() if LOADED else frozenset()


def compiled_for(device: torch.device) -> bool:
    """Whether the compiled operators serve ``device``; else the twins do."""
    return device.type in DEVICES


def backend() -> str:
    """Which backend runs, in one line for the record of a run."""
    devices = sorted(DEVICES - {"meta"})
    return f"{_STATE} for {' and '.join(devices)}" if LOADED else _STATE
