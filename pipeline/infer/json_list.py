"""A JSON list that is written element by element."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class JsonList:
    """A file with a JSON list, one element a line; the block gets the function that adds one.

    Args:
        path: of the file, which is complete at the end of the block.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._separator = "[\n"

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        return self._add

    def __exit__(self, *_: object) -> None:
        self._file.write("[\n]\n" if self._separator == "[\n" else "\n]\n")
        self._file.close()

    def _add(self, element: dict[str, Any]) -> None:
        self._file.write(self._separator + json.dumps(element))
        self._separator = ",\n"
