"""Builds `_ops_cuda`, the compiled operators; everything else stands in pyproject.toml.

CPU kernels always; CUDA kernels where a CUDA toolkit of torch's major version is found. A CUDA
build that fails falls back to CPU. Environment:

    OPS_CUDA=0              never build CUDA kernels
    OPS_CUDA=1              build them or fail
    TORCH_CUDA_ARCH_LIST    GPU architectures, default "8.0;9.0+PTX"
    MAX_JOBS                compilers at once
"""

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from setuptools import Extension, setup
from torch.utils import cpp_extension

SOURCES = Path("ops_cuda/csrc")
# the oldest torch whose stable ABI the library needs: one build serves every later one
TORCH_TARGET_VERSION = "0x020a000000000000"
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"


def toolkit_candidates() -> Iterator[Path]:
    """Folders that may hold a CUDA toolkit, most explicit first."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if variable in os.environ:
            yield Path(os.environ[variable])
    # the nvcc on PATH may be a link or a script far from its toolkit, so the customary folder too
    nvcc = shutil.which("nvcc")
    if nvcc:
        yield Path(nvcc).resolve().parents[1]
    yield Path("/usr/local/cuda")
    major = (torch.version.cuda or "").partition(".")[0]
    yield Path(sysconfig.get_paths()["purelib"]) / "nvidia" / f"cu{major}"


def static_runtime(toolkit: Path) -> Path | None:
    """The toolkit's libcudart_static.a; linked so that no libcudart.so has to be found."""
    folders = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")
    archives = (toolkit / folder / "libcudart_static.a" for folder in folders)
    return next((archive for archive in archives if archive.exists()), None)


def find_toolkit() -> tuple[Path | None, str]:
    """A usable CUDA toolkit or None, and the reason in words."""
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


def operators(toolkit: Path | None) -> Extension:
    """The extension module, with CUDA kernels if a toolkit is given."""
    folders = [SOURCES, SOURCES / "cpu"] + ([SOURCES / "cuda"] if toolkit else [])
    sources = [path for folder in folders for path in sorted(folder.glob("*.c[pu]*"))]
    target = f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"
    # contraction off: sums round alike on every machine, and like the pure-torch twins
    host = ["-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wno-psabi", target]
    include_dirs, libraries, link = cpp_extension.include_paths(), ["c10", "torch", "torch_cpu"], []
    if toolkit:
        include_dirs.append(str(toolkit / "include"))
        libraries.append("torch_cuda")
        link = [str(static_runtime(toolkit)), "-ldl", "-lrt", "-lpthread"]
    return Extension(
        "_ops_cuda",
        sources=[str(path) for path in sources if path.suffix in (".cpp", ".cu")],
        depends=[str(path) for path in SOURCES.rglob("*.*")],  # all: they go into the sdist
        include_dirs=include_dirs,
        library_dirs=cpp_extension.library_paths(),
        libraries=libraries,
        extra_compile_args={
            "cxx": host,
            "nvcc": ["-O3", "-DUSE_CUDA", "--fmad=false", target, "-Xcompiler=-fvisibility=hidden"],
        },
        extra_link_args=[*link, "-Wl,--exclude-libs,ALL", "-s"],
        language="c++",
        py_limited_api=True,
    )


class BuildOperators(cpp_extension.BuildExtension):
    """Builds with CUDA where possible; a failing CUDA build becomes a CPU build, said aloud."""

    def run(self) -> None:
        """Decide what to build, and build it."""
        choice = os.environ.get("OPS_CUDA", "")
        toolkit, reason = (None, "OPS_CUDA=0") if choice == "0" else find_toolkit()
        if toolkit is None:
            if choice == "1":
                raise RuntimeError(f"OPS_CUDA=1, but {reason}")
            say(f"building CPU kernels only: {reason}")
            self._build(None)
            return
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_ARCHITECTURES)
        cpp_extension.CUDA_HOME = str(toolkit)
        say(f"building CPU and CUDA kernels: {reason}")
        try:
            self._build(toolkit)
        except Exception as error:  # whatever a compiler, ninja or torch's checks raise
            if choice == "1":
                raise
            say(f"the CUDA build failed ({error}); building CPU kernels only")
            self.compiler = None  # the first run left its own there, and would choose no other
            self._build(None)

    def _build(self, toolkit: Path | None) -> None:
        self.extensions[:] = [operators(toolkit)]
        for extension in self.extensions:
            extension._needs_stub = False
            extension._full_name = extension._file_name = None
        super().run()


def say(message: str) -> None:
    """Tell the person who installs."""
    print(f"_ops_cuda: {message}", file=sys.stderr, flush=True)


setup(
    ext_modules=[operators(None)],
    cmdclass={"build_ext": BuildOperators},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
