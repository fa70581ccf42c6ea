"""An unpickler for arrays and plain containers that runs no code of the file.

A pickle is a program that may call any function. It is scanned first, opcode by opcode, and refused
if it has more than numpy arrays, numbers, strings, lists and dicts need. The few functions that the
pickle of an array calls are replaced by stand-ins of this module.
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from model.weights.report import WeightsError

# None that makes an object of a class (INST, OBJ, NEWOBJ), refers to something outside the file
# (PERSID, NEXT_BUFFER) or uses the registry of extensions (EXT).
_OPCODES = frozenset(
    re.findall(
        r"\w+",
        """PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2
        LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES
        BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 EMPTY_LIST APPEND
        APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS PUT
        BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD""",
    )
)
_WHY_REFUSED = {
    "INST": "makes an object of a class",
    "OBJ": "makes an object of a class",
    "NEWOBJ": "makes an object of a class",
    "NEWOBJ_EX": "makes an object of a class",
    "PERSID": "refers to something outside the file",
    "BINPERSID": "refers to something outside the file",
}
_DTYPE = re.compile(r"[<>|=]?([fiu][1248]|b1)")
# Nested containers: {"blobs": {name: array}} needs two.
_MAX_DEPTH = 8


@dataclass
class _DType:
    """Stand-in for a numpy.dtype, whose byte order is set after its creation."""

    __slots__ = ("code", "order")
    code: str
    order: str

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subtype, names, fields, item size, alignment, flags ...)
        if not isinstance(state, tuple) or len(state) < 5 or any(state[2:5]):
            raise WeightsError("an array of records, or a damaged dtype")
        if state[1] not in ("<", ">", "|", "="):
            raise WeightsError(f"an array with the byte order {state[1]!r}")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        return np.dtype((self.order if self.order in "<>" else "=") + self.code)


class _Array:
    """Stand-in for a numpy.ndarray, whose content is set after its creation."""

    __slots__ = ("content",)

    def __init__(self) -> None:
        self.content: npt.NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        # (version, shape, dtype, Fortran order, raw bytes); before numpy 1.0 without version.
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise WeightsError("a damaged array")
        shape, dtype, fortran, raw = state[-4:]
        self.content = _array(raw, dtype, shape, "F" if fortran else "C")


class _StandIn:
    """Stand-in for a function that array pickles call; the pickle cannot change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise WeightsError("a pickle that changes what it imports")


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
    """Return the array of these bytes, in this machine's byte order.

    Raises:
        WeightsError: dtype or shape is not that of a plain array, or disagrees with the bytes.
    """
    if isinstance(raw, list):
        raise WeightsError("an array of Python objects")
    if not isinstance(dtype, _DType):
        raise WeightsError("an array without a dtype")
    if not isinstance(raw, (bytes, bytearray)):
        raw = _to_bytes(raw, "latin1")
    if not isinstance(shape, tuple) or len(shape) > 32:
        raise WeightsError("an array without a shape")
    if any(type(side) is not int or side < 0 for side in shape) or order not in ("C", "F"):
        raise WeightsError(f"an array with the shape {shape!r:.60} and the order {order!r:.20}")
    kind = dtype.numpy()
    if math.prod(shape) * kind.itemsize != len(raw):
        raise WeightsError(f"an array of shape {shape} {kind} with {len(raw)} bytes")
    array = np.frombuffer(raw, kind).reshape(shape, order=order)
    return np.array(array, dtype=kind.newbyteorder("="), order="C")


def _dtype(code: Any, align: Any = False, copy: Any = True) -> _DType:
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        what = "Python objects" if isinstance(code, str) and code[:1] == "O" else repr(code)[:40]
        raise WeightsError(f"an array of {what}")
    return _DType(code.lstrip("<>|="), code[0] if code[0] in "<>" else "=")


def _reconstruct(subtype: Any, shape: Any, kind: Any) -> _Array:
    if subtype is not _ARRAY_TYPE:
        raise WeightsError("an array of a subclass")
    return _Array()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.content = _array(raw, dtype, shape, order)
    return array


def _scalar(dtype: Any, raw: Any = None) -> _Array:
    return _from_buffer(raw, dtype, (), "C")


def _to_bytes(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise WeightsError(f"bytes as text in the encoding {encoding!r:.20}")
    return text.encode("latin1")


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    return dict(pairs)


def _no_bytes(*arguments: Any) -> bytes:
    """Return b"", which Python 3 writes as ``bytes()`` for Python 2."""
    if arguments:
        raise WeightsError("bytes made by calling their class")
    return b""


def _no_call(*arguments: Any) -> Any:
    raise WeightsError("an array made by calling its class")


_ARRAY_TYPE = _StandIn(_no_call)
_STAND_INS = {
    ("numpy", "ndarray"): _ARRAY_TYPE,
    ("numpy", "dtype"): _StandIn(_dtype),
    ("_codecs", "encode"): _StandIn(_to_bytes),
    ("builtins", "bytes"): _StandIn(_no_bytes),
    ("__builtin__", "bytes"): _StandIn(_no_bytes),
    ("collections", "OrderedDict"): _StandIn(_ordered_dict),
}
# numpy 1 and numpy 2 have them in different modules.
for _package in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_package}.multiarray", "_reconstruct"] = _StandIn(_reconstruct)
    _STAND_INS[f"{_package}.multiarray", "scalar"] = _StandIn(_scalar)
    _STAND_INS[f"{_package}.numeric", "_frombuffer"] = _StandIn(_from_buffer)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise WeightsError(f"{module}.{name}, which is not part of an array")
        return stand_in


def unpickle_arrays(data: bytes, name: str) -> Any:
    """Read the arrays and plain containers of a pickle without running its code.

    Args:
        data: the pickle, of any protocol; strings of Python 2 are read as latin1.
        name: name of the file, for errors.

    Returns:
        numpy arrays in this machine's byte order, numbers, strings, None, and lists, tuples and
        dicts of these.

    Raises:
        WeightsError: it imports, makes or calls anything else, or it is damaged.
    """
    try:
        _scan(data)
        content = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
        return _Resolver().resolve(content, 0)
    except WeightsError as error:
        raise WeightsError(
            f"{name} is not loaded, because it holds more than arrays: {error}. Save the weights "
            "alone: tensors with torch.save, or a dict of arrays"
        ) from None
    # Malformed bytes make the unpickler raise almost any exception, always for this reason.
    except Exception as error:
        raise WeightsError(f"{name} is damaged or not a pickle: {error or type(error)}") from error


def _scan(data: bytes) -> None:
    """Refuse opcodes that arrays do not need, and memo indices that would fill the memory."""
    memo_size = 0
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            why = _WHY_REFUSED.get(opcode.name, "is not needed for arrays")
            raise WeightsError(f"the opcode {opcode.name} at byte {position}, which {why}")
        if opcode.name == "GLOBAL":
            module, _, function = str(argument).partition(" ")
            # Checked here already, before any array is built.
            _ArrayUnpickler(io.BytesIO()).find_class(module, function)
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo_size += 1
            if isinstance(argument, int) and argument > memo_size:
                raise WeightsError(
                    f"the memo index {argument} at byte {position}, far beyond the last"
                )


@dataclass
class _Resolver:
    """Replaces stand-ins by their arrays, each object once."""

    resolved: dict[int, Any] = field(default_factory=dict)

    def resolve(self, value: Any, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise WeightsError(f"containers nested more than {_MAX_DEPTH} deep")
        if id(value) not in self.resolved:
            self.resolved[id(value)] = self._replace(value, depth)
        return self.resolved[id(value)]

    def _replace(self, value: Any, depth: int) -> Any:
        match value:
            case _Array():
                if value.content is None:
                    raise WeightsError("an array without content")
                return value.content
            case dict():
                return {
                    self.resolve(key, depth + 1): self.resolve(item, depth + 1)
                    for key, item in value.items()
                }
            case list():
                return [self.resolve(item, depth + 1) for item in value]
            case tuple():
                return tuple(self.resolve(item, depth + 1) for item in value)
            case None | bool() | int() | float() | str() | bytes() | bytearray():
                return value
        raise WeightsError(f"a {type(value).__name__} outside of any array")
