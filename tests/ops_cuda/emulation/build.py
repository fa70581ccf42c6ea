"""Compilation of the CUDA sources for the CPU, as the operators `ops_emulated`."""

import os
import re
import subprocess
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


def as_host_code(source: str) -> str:
    """Rewrite a source for the CPU: launches become calls, the namespace becomes ops_emulated."""
    code = source.replace('#include "launch.h"', '#include "cuda_on_host.h"')
    code = LAUNCH.sub(r"emulate(\1, \2, ", code)
    code = code.replace("(ops_cuda, CUDA,", "(ops_emulated, CPU,")
    code = code.replace("STABLE_TORCH_LIBRARY(ops_cuda,", "STABLE_TORCH_LIBRARY(ops_emulated,")
    code = re.sub(r'#include "\.\./', f'#include "{CSRC}/', code)
    has_barriers = "__syncthreads" in code or "warp_sum" in code
    return f"#define EMULATE_BARRIERS {int(has_barriers)}\n{code}"


def build_emulation(folder: Path) -> Path:
    """Compile and load the library. Return its path in `folder`."""
    objects = []
    flags = FLAGS + (SANITIZERS if os.environ.get("OPS_SANITIZE") == "1" else [])
    kernels = sorted((CSRC / "cuda").glob("*.cu"))
    kernels.remove(CSRC / "cuda" / "device_code.cu")  # asks the driver about a device
    for source in [CSRC / "schema.cpp", *kernels]:
        host = folder / f"{source.stem}.cpp"
        host.write_text(as_host_code(source.read_text()))
        includes = [f"-I{path}" for path in [HERE, CSRC / "cuda", *include_paths()]]
        objects.append(str(host.with_suffix(".o")))
        command = ["g++", *flags, *includes, "-w", "-c", str(host), "-o", objects[-1]]
        subprocess.run(command, check=True)
    library = folder / "ops_emulated.so"
    libraries = [f"-L{path}" for path in library_paths()] + ["-lc10", "-ltorch", "-ltorch_cpu"]
    subprocess.run(["g++", "-shared", *flags, *objects, *libraries, "-o", str(library)], check=True)
    torch.ops.load_library(library)
    return library
