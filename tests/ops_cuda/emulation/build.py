"""Compilation of the CUDA sources for the CPU, as the operators `ops_emulated` or another name."""

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[2] / "ops_cuda" / "csrc"
LAUNCH = re.compile(r"([\w<>]+)<<<(.*?)>>>\(", re.DOTALL)
FLAGS = [
    *("-std=c++20", "-O1", "-fPIC", "-pthread", "-ffp-contract=off"),
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]
# `make sanitize` checks every access of every kernel
SANITIZERS = ["-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]


def as_host_code(source: str, namespace: str) -> str:
    """Rewrite a source for the CPU: launches become calls, the operators get another namespace."""
    code = source.replace('#include "launch.h"', '#include "cuda_on_host.h"')
    code = LAUNCH.sub(r"emulate(\1, \2, ", code)
    code = code.replace("(ops_cuda, CUDA,", f"({namespace}, CPU,")
    code = code.replace("STABLE_TORCH_LIBRARY(ops_cuda,", f"STABLE_TORCH_LIBRARY({namespace},")
    code = re.sub(r'#include "\.\./', f'#include "{CSRC}/', code)
    has_barriers = "__syncthreads" in code or "warp_sum" in code
    return f"#define EMULATE_BARRIERS {int(has_barriers)}\n{code}"


def build_emulation(
    folder: Path,
    namespace: str = "ops_emulated",
    kernels: str = "*.cu",
    defines: Sequence[str] = (),
) -> Path:
    """Compile and load a library.

    Args:
        folder: where its files are written.
        namespace: of its operators below `torch.ops`.
        kernels: pattern of the names of its sources.
        defines: macros, as NAME=VALUE.

    Returns:
        Its path.
    """
    objects = []
    # hidden: several libraries have kernels of the same names
    flags = [*FLAGS, "-fvisibility=hidden", *(f"-D{define}" for define in defines)]
    flags += SANITIZERS if os.environ.get("OPS_SANITIZE") == "1" else []
    # device_code.cu asks the driver about a device.
    sources = sorted(p for p in (CSRC / "cuda").glob(kernels) if p.name != "device_code.cu")
    for source in [CSRC / "schema.cpp", *sources]:
        host = folder / f"{source.stem}.cpp"
        host.write_text(as_host_code(source.read_text(), namespace))
        includes = [f"-I{path}" for path in [HERE, CSRC / "cuda", *include_paths()]]
        objects.append(str(host.with_suffix(".o")))
        command = ["g++", *flags, *includes, "-w", "-c", str(host), "-o", objects[-1]]
        subprocess.run(command, check=True)
    library = folder / f"{namespace}.so"
    libraries = [f"-L{path}" for path in library_paths()] + ["-lc10", "-ltorch", "-ltorch_cpu"]
    subprocess.run(["g++", "-shared", *flags, *objects, *libraries, "-o", str(library)], check=True)
    torch.ops.load_library(library)
    return library
