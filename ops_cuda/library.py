"""The compiled libraries, loaded once at import.

`_ops_cuda` has the signatures and the CPU kernels, `_ops_cuda_gpu` the CUDA kernels. Both are
top-level extension modules: Ray puts the shipped working directory, which lacks git-ignored files,
first on the path, so inside this package workers would not find them.
"""

import ctypes
import functools
import importlib.util
import logging

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

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
    if device.type not in KERNELS.get(operator, ()):
        return False
    if device.type != "cuda" or torch.compiler.is_compiling():
        return True
    return _has_code_for(torch.cuda.current_device() if device.index is None else device.index)


def lacks_type(tensor: Tensor) -> bool:
    """Return whether kernels of its device lack the tensor's type: on the CPU, the half types."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float16, torch.bfloat16)


@functools.cache
def _has_code_for(gpu: int) -> bool:
    """Return whether the CUDA library holds code for a GPU; warn if it does not."""
    spec = importlib.util.find_spec("_ops_cuda_gpu")
    if spec is None or spec.origin is None:
        return False
    has_code_for = ctypes.CDLL(spec.origin).ops_cuda_has_code_for
    has_code_for.restype = ctypes.c_bool
    if has_code_for(gpu):
        return True
    major, minor = torch.cuda.get_device_capability(gpu)
    logger.warning(
        "the compiled operators have no code for %s (compute capability %d.%d), and their slower "
        "reference implementations run instead. `TORCH_CUDA_ARCH_LIST=%d.%d OPS_CUDA=1 pip install "
        "-e . --no-build-isolation` compiles them for it.",
        torch.cuda.get_device_name(gpu),
        *(major, minor),
        *(major, minor),
    )
    return False


def backend() -> str:
    """Return which backend runs, in one line for the record of a run."""
    return _BACKEND
