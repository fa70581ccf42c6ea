"""Print the disk space of an installation with each extra: that of all packages it requires.

    python tools/measure_installation.py

The packages are those of this environment, which needs all of them. Numbers are decimal gigabytes.
"""

import importlib.metadata
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())
PROJECT = PROJECT["project"]
SHOWN = ("", "video", "export", "s3", "train", "sweep", "serve", "all", "dev")
GPU_PACKAGES = ("nvidia-", "cuda-", "triton")
"""Beginnings of the names of packages that only a torch with CUDA requires."""


def required_distributions(
    requirements: Sequence[str], extras: Mapping[str, Sequence[str]], name: str
) -> set[str]:
    """Return the names of all distributions that are required, directly or not.

    Args:
        requirements: of a project that need not be installed; all others must be.
        extras: the requirements of its extras, which may name the project itself.
        name: of the project.
    """
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        if key[0] == canonicalize_name(name):
            todo += [Requirement(text) for each in requirement.extras for text in extras[each]]
            continue
        found.add(key[0])
        todo += applying_requirements(importlib.metadata.requires(key[0]) or (), requirement.extras)
    return found


def applying_requirements(texts: Iterable[str], extras: Iterable[str]) -> list[Requirement]:
    """Return the requirements that apply on this machine, with these extras."""
    chosen = ["", *extras]
    parsed = [Requirement(text) for text in texts]
    return [
        each
        for each in parsed
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in chosen)
    ]


def installed_bytes(name: str) -> int:
    """Return the bytes of all files of an installed distribution."""
    distribution = importlib.metadata.distribution(name)
    paths = (Path(str(distribution.locate_file(file))) for file in distribution.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def main() -> None:
    """Print a line per extra."""
    extras = PROJECT["optional-dependencies"]
    print(f"{'extra':<8} {'packages':>8} {'GB':>6} {'of them CUDA libraries and Triton':>34}")
    for extra in SHOWN:
        requirements = [*PROJECT["dependencies"], *(extras[extra] if extra else ())]
        names = required_distributions(requirements, extras, PROJECT["name"])
        sizes = {name: installed_bytes(name) for name in names}
        gpu = sum(size for name, size in sizes.items() if name.startswith(GPU_PACKAGES))
        total = sum(sizes.values())
        print(f"{extra or '(none)':<8} {len(names):>8} {total / 1e9:>6.2f} {gpu / 1e9:>34.2f}")


if __name__ == "__main__":
    main()
