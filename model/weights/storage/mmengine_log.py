"""The log that MMEngine pickles beside the weights, which torch refuses to load.

Every checkpoint that MMDetection 3 saves in training has it: objects of a class of MMEngine with
numpy arrays and functions. Nothing here needs it, so what it consists of is replaced by an object
without content. No code of the file or of MMEngine runs.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch

_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
_NAMES = (
    _HISTORY,
    "builtins.getattr",
    "__builtin__.getattr",
    "numpy.ndarray",
    "numpy.dtype",
    *(
        f"numpy.{package}.multiarray.{name}"
        for package in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
)


class _LogEntry:
    """Stand-in for anything in the log; accepts and drops all content."""

    __slots__ = ()

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def is_mmengine_log(error: Exception) -> bool:
    """Return whether torch refused a file because of the log."""
    return _HISTORY in str(error)


def without_mmengine_log() -> AbstractContextManager[Any]:
    """Return a context in which ``torch.load`` replaces what the log consists of."""
    stand_ins: list[Any] = [(_LogEntry, name) for name in _NAMES]
    context: AbstractContextManager[Any] = torch.serialization.safe_globals(stand_ins)
    return context
