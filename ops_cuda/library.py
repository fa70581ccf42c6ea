"""The compiled libraries, loaded once at import.

`_ops_cuda` has the signatures and the CPU kernels, `_ops_cuda_gpu` the CUDA kernels. Both are
top-level extension modules: Ray puts the shipped working directory, which lacks git-ignored files,
first on the path, so inside this package workers would not find them.
"""

import importlib.util

import torch

KERNELS: dict[str, frozenset[str]] = {}
"""Devices ("cpu", "cuda", "meta") with a kernel, per operator; empty without the library."""


def _load(library: str) -> str | None:
    """Load a library. Return None, or why it cannot be loaded."""
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        return f"{library} is not built"
    try:
        torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]
    except OSError as error:  # built for another torch, or a damaged file
        return f"{spec.origin} does not load: {error}"
    return None


def _load_all() -> tuple[bool, str]:
    """Load both libraries. Return whether there are CPU kernels, and the text of `backend`."""
    problem = _load("_ops_cuda")
    if problem:
        return False, f"reference ({problem}; pip install -e . --no-build-isolation builds it)"
    if torch.version.cuda is None:
        return True, "compiled for cpu (this torch is built without CUDA)"
    problem = _load("_ops_cuda_gpu")
    return True, f"compiled for cpu ({problem})" if problem else "compiled for cpu and cuda"


# Loading has to happen at import, because torch registers operators when a library is loaded.
LOADED, _BACKEND = _load_all()


def record_kernels(operator: str) -> None:
    """Store in `KERNELS` which devices the loaded libraries have a kernel for."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    KERNELS[operator] = frozenset(
        device
        for device, key in (("cpu", "CPU"), ("cuda", "CUDA"), ("meta", "Meta"))
        if has_kernel(f"ops_cuda::{operator}", key)
    )


def compiled_for(operator: str, device: torch.device) -> bool:
    """Return whether ``operator`` has a compiled kernel for ``device``; else its reference runs."""
    return device.type in KERNELS.get(operator, ())


def backend() -> str:
    """Return which backend runs, in one line for the record of a run."""
    return _BACKEND
