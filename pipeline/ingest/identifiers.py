"""Integers for the ids of images, categories and annotations, whose JSON type may be any.

An id is only a name. Integers keep their value; other ids get an integer that depends on nothing
but the id, as far as no other id claims it. A reference finds the id that is written the same way,
else the only one that is the same number: ``"0"`` finds 0 if there is no ``"0"``.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import count
from typing import Any, Literal

_INT64 = range(-(2**63), 2**63)
_NUMBER = re.compile(r"-?[0-9]{1,19}")
_NUMBERED_NAME = re.compile(r"[0-9]{1,15}")


def id_key(value: Any) -> Hashable | None:
    """Return a key that is equal for ids written the same way; None if there is no id."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return ("json", id_text(value))


def id_text(value: Any) -> str:
    """Return an id as JSON, shortened to 200 characters."""
    return json.dumps(value, sort_keys=True, default=str)[:200]


class IdTable:
    """The ids of a dataset and our integer for each.

    Args:
        given: the ids as written; None and repeated ones are left out.
        others: how ids that are no integers are numbered: by a hash, which is the same in every
            file, or counting up from 1.
    """

    def __init__(self, given: Iterable[Any], others: Literal["hash", "count"] = "hash") -> None:
        keys = list(dict.fromkeys(key for each in given if (key := id_key(each)) is not None))
        self._numbers = _number_keys(keys, others)
        self._by_value: dict[int, list[Hashable]] = {}
        for key in keys:
            value = _value(key)
            if value is not None:
                self._by_value.setdefault(value, []).append(key)

    def find(self, reference: Any) -> int | None:
        """Return the integer of the id that a reference means; None if there is none, or several.

        Args:
            reference: an id, of any JSON type.
        """
        key = id_key(reference)
        if key in self._numbers:
            return self._numbers[key]
        same = self._by_value.get(value, []) if (value := _value(key)) is not None else []
        return self._numbers[same[0]] if len(same) == 1 else None


def number_annotations(given: Sequence[Any]) -> list[int]:
    """Return an integer for each annotation: its own if that is an unused integer, else a free one.

    Args:
        given: the ids as written, in the order of the annotations; they may repeat or be missing.
    """
    own = {key for each in given if isinstance(key := id_key(each), int) and key in _INT64}
    free = (number for number in count(1) if number not in own)
    unused = set(own)
    numbers = []
    for each in given:
        key = id_key(each)
        if isinstance(key, int) and key in unused:
            unused.remove(key)
            numbers.append(key)
        else:
            numbers.append(next(free))
    return numbers


def number_names(names: Sequence[str]) -> dict[str, int]:
    """Return an image id for each name of a dataset whose images have no ids.

    Digits are read as a number (000005 is 5, 2008_000002 is 2008000002) unless another name is the
    same number; any other name gives the first 48 bits of its SHA-256.
    """
    table = IdTable(names)
    return {name: number for name in names if (number := table.find(name)) is not None}


def _value(key: Hashable | None) -> int | None:
    """Return the number that an integer, or a string of digits, stands for."""
    if isinstance(key, int):
        return key
    return int(key) if isinstance(key, str) and _NUMBER.fullmatch(key) else None


def _claim(key: Hashable) -> int | None:
    """Return the integer that a key would like to have."""
    if isinstance(key, str):
        digits = key.replace("_", "")
        return int(digits) if _NUMBERED_NAME.fullmatch(digits) else None
    return key if isinstance(key, int) and key in _INT64 else None


def _number_keys(keys: Sequence[Hashable], others: str) -> dict[Hashable, int]:
    """Number distinct keys: integers first, then what is written like them, then the rest."""
    numbers: dict[Hashable, int] = {}
    used: set[int] = set()

    def assign(key: Hashable, number: int) -> None:
        numbers[key] = number
        used.add(number)

    claims = {key: _claim(key) for key in keys}
    claimants = Counter(claims.values())
    for exact in (lambda key: isinstance(key, int), lambda key: key == str(claims[key])):
        for key, claim in claims.items():
            if claim is not None and claim not in used and exact(key):
                assign(key, claim)
    for key, claim in claims.items():
        if key not in numbers and claim is not None and claim not in used and claimants[claim] == 1:
            assign(key, claim)
    counter = count(1)
    for key in keys:
        if key in numbers:
            continue
        start = counter if others == "count" else count(_hash(key))
        assign(key, next(number for number in start if number not in used))
    return numbers


def _hash(key: Hashable) -> int:
    text = key if isinstance(key, str) else id_text(key)
    return int(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12], 16)
