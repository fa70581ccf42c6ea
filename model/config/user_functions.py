"""Functions of the user that a setting names as ``package.module:function``."""

import importlib
import importlib.util
import logging
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from model.config.settings import ConfigError

logger = logging.getLogger(__name__)

NAME_PATTERN = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"
"""The form of a setting that names a function."""


class UserCodeError(ConfigError):
    """A module or function of the user failed; its traceback is in the log."""

    def __str__(self) -> str:
        return self.problems[0]


def find_function(name: str, section: str) -> Callable[..., Any]:
    """Import a function.

    Args:
        name: ``package.module:function``, found in the current folder or as by ``import``.
        section: of the settings, for the error: ``data``.

    Raises:
        ConfigError: there is no such function.
        UserCodeError: its module fails.
    """
    module_name, _, attribute = name.partition(":")
    folder = str(Path.cwd())
    try:
        with _current_folder_on_path(folder):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _failure(name, "cannot be imported", error) from error
        raise ConfigError([f"{section}: {name}: {_why_missing(module_name, folder)}"]) from error
    except (Exception, SystemExit) as error:
        raise _failure(name, "cannot be imported", error) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        file = getattr(module, "__file__", None) or "built in"
        problem = f"{section}: {name}: {module_name} ({file}) has no function {attribute}"
        raise ConfigError([problem])
    function: Callable[..., Any] = found
    return function


def find_source(module_name: str) -> Path | None:
    """Return the file of a module that `find_function` would import, without importing anything.

    None for modules of the standard library, those that are not written in Python, and if there is
    no such module.
    """
    top, *below = module_name.split(".")
    if top in sys.stdlib_module_names:
        return None
    try:
        with _current_folder_on_path(str(Path.cwd())):
            spec = importlib.util.find_spec(top)
            folders = _folders_below(spec)
            for depth, name in enumerate(below, start=1):
                try:
                    spec = PathFinder.find_spec(".".join([top, *below[:depth]]), folders)
                    folders = _folders_below(spec)
                except KeyError:
                    # A package without __init__.py, in another that is not imported yet.
                    spec, inside = None, (Path(folder) / name for folder in folders)
                    folders = [str(folder) for folder in inside if folder.is_dir()]
    except ValueError:
        return None
    origin = None if spec is None else spec.origin
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def _folders_below(spec: ModuleSpec | None) -> list[str]:
    """Return where the modules of a package are; empty if it is none."""
    return [] if spec is None else list(spec.submodule_search_locations or ())


@contextmanager
def _current_folder_on_path(folder: str) -> Iterator[None]:
    # First, as in an interpreter: the folder of a command may have modules of the same names.
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for what the function imports later


def call_function(function: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> Any:
    """Return ``function(**arguments)``.

    Args:
        function: found by `find_function`.
        name: its name, for the error.
        arguments: of the call.

    Raises:
        UserCodeError: it fails.
    """
    try:
        return function(**arguments)
    except (Exception, SystemExit) as error:
        raise _failure(name, "failed", error) from error


def _why_missing(module_name: str, folder: str) -> str:
    first = module_name.partition(".")[0]
    taken = sys.modules.get(first)
    if "." in module_name and taken is not None:
        where = ", ".join(getattr(taken, "__path__", ())) or getattr(taken, "__file__", "built in")
        return f"there is no module {module_name} in the package {first} ({where})"
    return f"there is no module {module_name} in {folder} or installed"


def _failure(name: str, what: str, error: BaseException) -> UserCodeError:
    logger.error("%s %s:\n%s", name, what, traceback.format_exc().rstrip())
    return UserCodeError(
        [f"{name} {what}: {type(error).__name__}: {error} (its traceback is above)"]
    )
