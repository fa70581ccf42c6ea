"""Names that a package imports when they are first used.

Command lines and settings live in packages whose other names need torch or pyarrow, which take
seconds to import; a help text or a refused setting should not wait for them.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(
    package: str, names_by_module: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    Args:
        package: the package's ``__name__``.
        names_by_module: absolute module name -> names that the package exports from it.
    """
    home = {name: module for module, names in names_by_module.items() for name in names}

    def get_attribute(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home[name]), name)

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return get_attribute, list_names
