"""Requests of HTTP, checked before anything is decoded.

Each refusal is a `RefusedError` with one line that says what is wrong.
"""

import asyncio
import difflib
import math
from dataclasses import dataclass

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request

from model.images.decode import (
    DecodeError,
    TooManyPixelsError,
    UnknownFormatError,
    stored_size,
)
from pipeline.config.serve import ServeConfig
from pipeline.serve.errors import RefusedError

_NAMES = ("min_score", "classes")
_PIXEL_ADVICE = "(serve.max_pixels); cut the image into tiles, or make it smaller"


@dataclass(frozen=True)
class Parameters:
    """The parameters of a request.

    Args:
        min_score: detections with a lower score are left out.
        classes: names of the classes to keep; empty for all.
    """

    min_score: float
    classes: tuple[str, ...]


def read_parameters(query: QueryParams, min_score: float) -> Parameters:
    """Read the parameters of a URL.

    Args:
        query: ``min_score`` and ``classes``, names with commas between them; both may be absent.
        min_score: if the URL states none.

    Raises:
        RefusedError: a parameter is unknown, given twice, or has a wrong value.
    """
    names = [name for name, _ in query.multi_items()]
    for name in names:
        if name not in _NAMES:
            near = difflib.get_close_matches(name, _NAMES, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {' and '.join(_NAMES)}"
            raise RefusedError(400, f"unknown parameter {_shown(name)}; {hint}")
        if names.count(name) > 1:
            raise RefusedError(400, f"{name} is given {names.count(name)} times; give it once")
    stated = query.get("min_score")
    if stated is not None:
        min_score = _score(stated)
    classes = [name.strip() for name in query.get("classes", "").split(",")]
    return Parameters(min_score, tuple(name for name in classes if name))


async def read_image(request: Request, settings: ServeConfig) -> bytes:
    """Read the image of a request, and check its type and its number of pixels.

    A body that is too large is refused when its size is known: from its header, or as soon as more
    than the limit has arrived.

    Raises:
        RefusedError: it is too large, empty, damaged, or not an image.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise RefusedError(
            415, "send the bytes of the image itself, not a form (curl --data-binary @photo.jpg)"
        )
    data = await _read_body(request, round(settings.max_megabytes * 1e6))
    if not data:
        raise RefusedError(400, "the body is empty; send the bytes of an image")
    # In a thread: the header of a TIFF may be anywhere in it.
    await asyncio.to_thread(_check_header, data, settings.max_pixels)
    return data


async def _read_body(request: Request, max_bytes: int) -> bytes:
    limit = f"the limit is {max_bytes:,} bytes (serve.max_megabytes)"
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > max_bytes:
        raise RefusedError(413, f"the image has {int(stated):,} bytes; {limit}")
    data = bytearray()
    try:
        async for chunk in request.stream():
            if len(data) + len(chunk) > max_bytes:
                raise RefusedError(413, f"the image is too large; {limit}")
            data += chunk
    except ClientDisconnect:
        raise RefusedError(400, "the connection ended before the image did") from None
    return bytes(data)


def _check_header(data: bytes, max_pixels: int) -> None:
    try:
        height, width = stored_size(data)
    except UnknownFormatError as error:
        raise RefusedError(415, str(error)) from error
    except TooManyPixelsError as error:
        size = f"the image has more than {max_pixels:,} pixels"
        raise RefusedError(413, f"{size} {_PIXEL_ADVICE}") from error
    except DecodeError as error:
        raise RefusedError(400, f"the image cannot be decoded: {error}") from error
    if height * width > max_pixels:
        raise RefusedError(
            413,
            f"{width}x{height} is more than {max_pixels:,} pixels {_PIXEL_ADVICE}",
        )


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0.0 <= score <= 1.0:  # also if it is NaN
        raise RefusedError(400, f"min_score must be a number from 0 to 1; got {_shown(text)}")
    return score


def _shown(text: str) -> str:
    """Return text of a client on one line, and not much of it."""
    shown = repr(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
