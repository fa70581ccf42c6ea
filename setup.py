"""Build of the compiled operators; everything else is in pyproject.toml.

There are two libraries: `_ops_cuda` has the signatures and the CPU kernels, and loads with every
torch; `_ops_cuda_gpu` adds the CUDA kernels if a CUDA toolkit of torch's major version is found,
and needs a torch with CUDA. If the CUDA build fails, the first library is still installed.
Environment variables:

    OPS_CUDA=0              never build CUDA kernels
    OPS_CUDA=1              build them or fail
    OPS_SANITIZE=1          CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer
    TORCH_CUDA_ARCH_LIST    GPU architectures; default: those of the GPUs here, or without one all
                            that nvcc knows of 7.5, 8.0, 9.0, 10.0 and 12.0, and PTX
    MAX_JOBS                number of parallel compiler processes
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from setuptools import Extension, setup
from setuptools.errors import CompileError
from torch.utils import cpp_extension

SOURCES = Path("ops_cuda/csrc")
# 2.10, the oldest torch whose stable ABI suffices: one build works with every later torch
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# no contraction: sums are rounded the same on every machine and in the reference implementations
HOST_FLAGS = ["-ffp-contract=off", "-fvisibility=hidden", "-Wno-psabi", TARGET]
# multiversioned functions are resolved before the sanitizers are initialized: build one version
SANITIZERS = [
    *("-O1", "-g", "-fno-omit-frame-pointer", "-DOPS_ONE_VERSION"),
    *("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
]
# Turing; Ampere and Ada (8.6 and 8.9 run the code of 8.0); Hopper; Blackwell in data centers and
# elsewhere
ARCHITECTURES = ("7.5", "8.0", "9.0", "10.0", "12.0")


def toolkit_candidates() -> Iterator[Path]:
    """Yield folders that may contain a CUDA toolkit, most explicit first."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if variable in os.environ:
            yield Path(os.environ[variable])
    # the nvcc on PATH may be a link or a script outside its toolkit, so try the usual folder too
    nvcc = shutil.which("nvcc")
    if nvcc:
        yield Path(nvcc).resolve().parents[1]
    yield Path("/usr/local/cuda")
    major = (torch.version.cuda or "").partition(".")[0]
    yield Path(sysconfig.get_paths()["purelib"]) / "nvidia" / f"cu{major}"


def static_runtime(toolkit: Path) -> Path | None:
    """Return the toolkit's libcudart_static.a, linked so that no libcudart.so is needed."""
    folders = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")
    archives = (toolkit / folder / "libcudart_static.a" for folder in folders)
    return next((archive for archive in archives if archive.exists()), None)


def find_toolkit() -> tuple[Path | None, str]:
    """Return a usable CUDA toolkit or None, and the reason as text."""
    if torch.version.cuda is None:
        return None, "this torch is built without CUDA"
    major = torch.version.cuda.partition(".")[0]
    for folder in toolkit_candidates():
        header = folder / "include" / "cuda_runtime_api.h"
        if not (folder / "bin" / "nvcc").exists() or not header.exists():
            continue
        version = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", header.read_text())
        if version and int(version[1]) // 1000 == int(major) and static_runtime(folder):
            return folder, f"toolkit {folder}"
    return None, f"no CUDA {major} toolkit with nvcc, headers and libcudart_static.a found"


def default_architectures(toolkit: Path) -> str:
    """Return the architectures to compile for, as TORCH_CUDA_ARCH_LIST takes them.

    The newest is also included as PTX, which drivers compile for later GPUs.
    """
    gpus = range(torch.cuda.device_count())
    found = sorted({torch.cuda.get_device_capability(gpu) for gpu in gpus})
    if found:
        names = [f"{major}.{minor}" for major, minor in found]
    else:
        nvcc = [str(toolkit / "bin" / "nvcc"), "--list-gpu-arch"]
        known = subprocess.run(nvcc, capture_output=True, text=True, check=True).stdout.split()
        names = [name for name in ARCHITECTURES if f"compute_{name.replace('.', '')}" in known]
    return ";".join(names) + "+PTX"


def cpu_library(sanitize: bool) -> Extension:
    """Return the library of signatures and CPU kernels, optionally with sanitizers."""
    flags = [*HOST_FLAGS, *(SANITIZERS if sanitize else ["-O3"])]
    return library(
        "_ops_cuda",
        [SOURCES, SOURCES / "cpu"],
        compile_flags={"cxx": flags},
        link_flags=SANITIZERS if sanitize else ["-s"],
    )


def cuda_library(toolkit: Path, optional: bool) -> Extension:
    """Return the library of CUDA kernels, with the toolkit's runtime linked in."""
    gpu = ["-O3", "-DUSE_CUDA", "--fmad=false", TARGET, "-Xcompiler=-fvisibility=hidden"]
    return library(
        "_ops_cuda_gpu",
        [SOURCES / "cuda"],
        compile_flags={"cxx": [*HOST_FLAGS, "-O3"], "nvcc": gpu},
        link_flags=["-s", str(static_runtime(toolkit)), "-ldl", "-lrt", "-lpthread"],
        include_dirs=[str(toolkit / "include")],
        libraries=["torch_cuda"],
        optional=optional,
    )


def library(
    name: str,
    folders: Sequence[Path],
    compile_flags: Mapping[str, Sequence[str]],
    link_flags: Sequence[str],
    include_dirs: Sequence[str] = (),
    libraries: Sequence[str] = (),
    optional: bool = False,
) -> Extension:
    """Return a top-level extension of all sources in ``folders``."""
    sources = [path for folder in folders for path in sorted(folder.glob("*.c[pu]*"))]
    return Extension(
        name,
        sources=[str(path) for path in sources if path.suffix in (".cpp", ".cu")],
        depends=[str(path) for path in SOURCES.rglob("*.*")],  # all files: the sdist needs them
        include_dirs=[*cpp_extension.include_paths(), *include_dirs],
        library_dirs=cpp_extension.library_paths(),
        libraries=["c10", "torch", "torch_cpu", *libraries],
        extra_compile_args={kind: list(flags) for kind, flags in compile_flags.items()},
        extra_link_args=[*link_flags, "-Wl,--exclude-libs,ALL"],
        language="c++",
        py_limited_api=True,
        optional=optional,
    )


class BuildOperators(cpp_extension.BuildExtension):
    """Builds the CPU library, and the CUDA library if possible; prints what is not built."""

    def finalize_options(self) -> None:
        """Decide which libraries to build."""
        sanitize = os.environ.get("OPS_SANITIZE") == "1"
        choice = "0" if sanitize else os.environ.get("OPS_CUDA", "")
        toolkit, reason = (None, "as requested") if choice == "0" else find_toolkit()
        if toolkit is None and choice == "1":
            raise RuntimeError(f"OPS_CUDA=1, but {reason}")
        report(f"{'CPU and CUDA kernels' if toolkit else 'CPU kernels only'}: {reason}")
        libraries = [cpu_library(sanitize)]
        if toolkit:
            if "TORCH_CUDA_ARCH_LIST" not in os.environ:
                os.environ["TORCH_CUDA_ARCH_LIST"] = default_architectures(toolkit)
            report(f"compiling for {os.environ['TORCH_CUDA_ARCH_LIST']}")
            cpp_extension.CUDA_HOME = str(toolkit)
            libraries.append(cuda_library(toolkit, optional=choice != "1"))
        self.distribution.ext_modules = libraries
        super().finalize_options()

    def build_extension(self, ext: Extension) -> None:
        """Build one library; setuptools continues if an optional one fails."""
        try:
            super().build_extension(ext)
        except Exception as error:  # whatever a compiler, ninja or torch's checks raise
            if not ext.optional:
                raise
            report(f"{ext.name} was not built, there are no CUDA kernels: {error}")
            raise CompileError(str(error)) from error


def report(message: str) -> None:
    """Print a message to the console of the installation."""
    print(f"_ops_cuda: {message}", file=sys.stderr, flush=True)


setup(
    ext_modules=[cpu_library(sanitize=False)],
    cmdclass={"build_ext": BuildOperators},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
