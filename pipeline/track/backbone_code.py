"""What a served model needs for a backbone that is not our ResNet: timm, or the user's code."""

import shutil
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

from model.config import BackboneConfig
from model.config.settings import ConfigError
from model.config.user_functions import find_function


def backbone_packages(config: BackboneConfig) -> list[str]:
    """Return the installed distributions that build a backbone, by name."""
    if config.timm is not None:
        return ["timm"]
    if config.function is not None:
        return packages_distributions().get(_top_module(config.function), [])[:1]
    return []


def copy_backbone_code(config: BackboneConfig, folder: Path) -> None:
    """Copy the module or package of a user's function, unless it is an installed distribution.

    Args:
        config: settings of the backbone.
        folder: folder of the code that is kept with the model.

    Raises:
        ConfigError: the function or its code is not found.
    """
    if config.function is None or backbone_packages(config):
        return
    find_function(config.function, "model.backbone")  # puts the current folder on the path
    name = _top_module(config.function)
    spec = find_spec(name)
    if spec is None or not (spec.origin or spec.submodule_search_locations):
        raise ConfigError([f"model.backbone.function: the code of {name} is not found"])
    if spec.submodule_search_locations:
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        source = next(iter(spec.submodule_search_locations))
        shutil.copytree(source, folder / name, ignore=ignored)
    else:
        shutil.copyfile(str(spec.origin), folder / f"{name}.py")


def _top_module(function: str) -> str:
    return function.partition(":")[0].partition(".")[0]
