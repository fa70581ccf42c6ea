"""What a served model needs for a backbone that is not our ResNet: timm, or the user's code."""

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from model.config import BackboneConfig
from model.config.settings import ConfigError
from model.config.user_functions import find_function, find_source

_OURS = ("model", "ops_cuda", "pipeline", "workflows", "tests")


def backbone_packages(config: BackboneConfig) -> list[str]:
    """Return the distributions of an index that build a backbone, by name."""
    if config.timm is not None:
        return ["timm"]
    if config.function is not None:
        names = packages_distributions().get(_module(config.function).partition(".")[0], [])
        # One that was installed from a folder or an address is not what an index has of that name.
        return [name for name in names if distribution(name).read_text("direct_url.json") is None]
    return []


def copy_backbone_code(config: BackboneConfig, folder: Path) -> None:
    """Copy the module of a user's function and the modules beside it that it has imported.

    Nothing is copied of an installed distribution.

    Args:
        config: settings of the backbone.
        folder: folder of the code that is kept with the model.

    Raises:
        ConfigError: the function or its code is not found.
    """
    if config.function is None or backbone_packages(config):
        return
    find_function(config.function, "model.backbone.function")
    module = _module(config.function)
    source = find_source(module)
    if source is None:
        raise ConfigError([f"model.backbone.function: {module} is not a Python file"])
    depth = module.count(".") + (source.name == "__init__.py")
    root = source.resolve().parents[depth]
    for file in _imported_files(root):
        target = folder / file.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def check_in_new_process(model: Path) -> None:
    """Load an MLflow model where nothing of the user's code is imported or found but its copy.

    Raises:
        ConfigError: it does not load; the message has the last line of the error.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = "import sys, mlflow; mlflow.pyfunc.load_model(sys.argv[1])"
    with tempfile.TemporaryDirectory() as empty:
        loaded = subprocess.run(
            [sys.executable, "-c", program, str(model)],
            cwd=empty,
            env=environment,
            capture_output=True,
            text=True,
        )
    if loaded.returncode:
        reason = (loaded.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(
            [
                f"model.backbone.function: the model does not load in a new process: {reason}. "
                "The version has the Python files beside the function's that it imports; install "
                "anything else as a package"
            ]
        )


def _imported_files(root: Path) -> set[Path]:
    """Return the Python files of the user below a folder that this process has imported."""
    files = set()
    # The folder may be / in a container, which has the standard library below it.
    others = {"__main__", *_OURS, *sys.stdlib_module_names}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] in others or not isinstance(file, str):
            continue
        path = Path(file).resolve()
        if path.suffix == ".py" and path.is_relative_to(root) and _is_own(path):
            files.add(path)
    return files


def _is_own(path: Path) -> bool:
    # Some modules of torch name files that do not exist.
    installed = any(part in ("site-packages", "dist-packages") for part in path.parts)
    return path.is_file() and not installed


def _module(function: str) -> str:
    return function.partition(":")[0]
