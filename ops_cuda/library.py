"""The compiled libraries: found and loaded once, or replaced by the twins.

`_ops_cuda` has the signatures and the CPU kernels, `_ops_cuda_gpu` the CUDA kernels. Both are
top-level extension modules, because Ray ships the working directory without git-ignored files
first on the path: inside this package they would be shadowed on workers.
"""

import importlib.util

import torch

from ops_cuda import registration

OPERATORS = tuple(registration.FAKES)


def _load(library: str) -> str | None:
    """Load a library; what is wrong with it, in words."""
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        return f"{library} is not built"
    try:
        torch.ops.load_library(spec.origin)  # type: ignore[no-untyped-call]
    except OSError as error:  # built for another torch, or a damaged file
        return f"{spec.origin} does not load: {error}"
    return None


def _load_all() -> tuple[bool, str]:
    """Whether compiled operators are there, and what `backend` says of them."""
    trouble = _load("_ops_cuda")
    if trouble:
        return False, f"reference ({trouble}; pip install -e . --no-build-isolation builds it)"
    registration.register()
    if torch.version.cuda is None:
        return True, "compiled for cpu (this torch is built without CUDA)"
    trouble = _load("_ops_cuda_gpu")
    return True, f"compiled for cpu ({trouble})" if trouble else "compiled for cpu and cuda"


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
LOADED, _STATE = _load_all()
KERNELS = _kernels() if LOADED else {}


def compiled_for(operator: str, device: torch.device) -> bool:
    """Whether the compiled ``operator`` serves ``device``; else its twin does."""
    return device.type in KERNELS.get(operator, ())


def backend() -> str:
    """Which backend runs, in one line for the record of a run."""
    return _STATE
