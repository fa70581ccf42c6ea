"""The compiled library `_ops_cuda`: found and loaded once, or replaced by the twins.

It is a top-level extension module, because Ray ships the working directory without git-ignored
files first on the path: inside this package it would be shadowed on workers.
"""

import importlib.util

import torch

from ops_cuda import registration

OPERATORS = tuple(registration.FAKES)


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


def _kernels() -> dict[str, frozenset[str]]:
    """Per operator, the devices that the loaded library has a kernel for."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {
        name: frozenset(
            device
            for device, key in (("cpu", "CPU"), ("cuda", "CUDA"), ("meta", "Meta"))
            if has_kernel(f"ops_cuda::{name}", key)
        )
        for name in OPERATORS
    }


# Registering operators is what importing an extension module does; nothing else happens here.
_STATE = _load()
LOADED = _STATE.startswith("compiled")
KERNELS = _kernels() if LOADED else {}


def compiled_for(operator: str, device: torch.device) -> bool:
    """Whether the compiled ``operator`` serves ``device``; else its twin does."""
    return device.type in KERNELS.get(operator, ())


def backend() -> str:
    """Which backend runs, in one line for the record of a run."""
    devices = sorted(KERNELS.get("nms", frozenset()) - {"meta"})
    return f"{_STATE} for {' and '.join(devices)}" if LOADED else _STATE
