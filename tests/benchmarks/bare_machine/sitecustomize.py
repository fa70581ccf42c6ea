"""Python imports this at its start if its folder is on the path: hides what a GPU machine lacks.

Only packages of that machine, and those that are carried there, can be imported, whatever else is
installed here.
"""

import re
import sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# Of the packages of its image, those that the project or its tests could import.
INSTALLED = (
    *("anyio", "cmake", "hypothesis", "matplotlib", "ninja", "numpy", "opencv-python-headless"),
    *("onnx", "onnxruntime", "onnxscript", "packaging", "pandas", "pillow", "pip", "psutil"),
    *("pyarrow", "pytest", "pytest-timeout", "pytest-xdist", "pyyaml", "rich", "safetensors"),
    *("scipy", "setuptools", "torch", "torchvision", "tqdm", "wheel"),
)
CARRIED = [
    line.partition("==")[0]
    for line in (ROOT / "benchmarks/gpu_check_wheels.txt").read_text().splitlines()
    if not line.startswith("#")
]


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def with_dependencies(names):
    """Return the canonical names of distributions and of all that they need, without extras."""
    found, waiting = {"maskrcnn-ray"}, [canonical(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = requires(name) or ()
        except PackageNotFoundError:
            continue
        waiting += [
            canonical(re.match(r"[\w.-]+", each)[0]) for each in needed if "extra ==" not in each
        ]
    return found


# Packages that are carried bring no dependencies: all are named in the file.
AVAILABLE = with_dependencies(INSTALLED) | {canonical(name) for name in CARRIED}
HIDDEN = {
    module
    for module, distributions in packages_distributions().items()
    if AVAILABLE.isdisjoint(map(canonical, distributions))
}


class AvailableFinder(PathFinder):
    """Finds modules on the path, except hidden ones."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in HIDDEN
        return None if hidden else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = AvailableFinder
