"""A Python environment that has the packages of PyPI, but not this checkout."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from tools.measure_installation import applying_requirements, required_distributions

ROOT = Path(__file__).resolve().parent.parent

# The operators are compiled once, when the project is installed; a wheel of them takes minutes.
_SETUP = """
import shutil
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

class CopyLibrary(build_ext):
    def build_extension(self, extension):
        shutil.copyfile({library!r}, self.get_ext_fullpath(extension.name))

setup(
    ext_modules=[Extension("_ops_cuda", [], py_limited_api=True)],
    cmdclass={{"build_ext": CopyLibrary}},
    options={{"bdist_wheel": {{"py_limited_api": "cp311"}}}},
)
"""


def build_wheel(folder):
    """Build the wheel of this project, with the compiled operators of this environment."""
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "csrc")
    for name in ("configs", "ops_cuda", "model", "pipeline", "workflows"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    library = importlib.util.find_spec("_ops_cuda")
    setup = (
        _SETUP.format(library=library.origin)
        if library
        else "from setuptools import setup\nsetup()"
    )
    (source / "setup.py").write_text(setup)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(folder), str(source)], check=True, cwd=folder)
    [wheel] = folder.glob("*.whl")
    return wheel


def make_environment(folder, wheel=None):
    """Create an environment; return its Python.

    It finds the packages that are installed here through a path file, so that nothing is installed
    again. Path files of an editable installation are not read that way: the checkout stays out.
    Commands of packages are not found that way either; MLflow needs one of them.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "packages.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    if wheel is not None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
    python = folder / "bin" / "python"
    server = folder / "bin" / "uvicorn"
    server.write_text(f"#!{python}\nfrom uvicorn.main import main\n\nmain()\n")
    server.chmod(0o755)
    return python


def make_limited_environment(folder, wheel, extras=()):
    """Create an environment that has the wheel and what it requires, and nothing else.

    ``extras`` must not name others of the project. The required packages are linked from this
    environment. Return its Python, and the names of the distributions that it has.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    [own] = importlib.metadata.distributions(path=[str(packages)])
    requirements = [str(each) for each in applying_requirements(own.requires, extras)]
    names = required_distributions(requirements, {}, own.metadata["Name"])
    for name in names:
        for source in _installed_files(importlib.metadata.distribution(name)):
            target = packages / source.name
            if not target.exists():
                target.symlink_to(source)
    return python, names


def _installed_files(distribution):
    """Yield the files and folders of a distribution that lie directly in site-packages."""
    names = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
    return [Path(distribution.locate_file(name)) for name in sorted(names)]


def environment_variables(**variables):
    """Return the variables of a process in such an environment."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    quiet = {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**kept, **quiet, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", **variables}
