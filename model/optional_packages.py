"""Packages that a part of the project needs and that an extra of its installation brings.

The settings, ``--help`` and inference need only the project's own dependencies. What needs more
checks for it here before it imports it, so that a missing package ends a command with one line.
"""

import importlib.util
from collections.abc import Sequence

DISTRIBUTION = "maskrcnn-ray"


class MissingPackagesError(ImportError):
    """Packages of an extra are not installed; the message names them and the way to install them.

    Args:
        purpose: what needs them, for example ``"this job"``.
        extra: the extra of this project that has them.
        missing: their modules.
    """

    def __init__(self, purpose: str, extra: str, missing: Sequence[str]) -> None:
        super().__init__(
            f"{purpose} needs the extra {extra}: pip install '{DISTRIBUTION}[{extra}]' "
            f"(not installed: {', '.join(missing)})"
        )


def require_packages(purpose: str, extra: str, modules: Sequence[str]) -> None:
    """Check that modules can be imported, without importing them.

    Args:
        purpose: what needs them, the subject of the error's sentence.
        extra: the extra of this project that has them.
        modules: names as in ``import``, which may differ from those that pip knows; packages around
            them, as of ``azure.identity``, are imported.

    Raises:
        MissingPackagesError: one of them is not installed.
    """
    if missing := [name for name in modules if not _is_installed(name)]:
        raise MissingPackagesError(purpose, extra, missing)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package around it is not
        return False
