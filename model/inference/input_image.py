"""Images as callers have them: files, encoded bytes, PIL images, arrays and tensors.

Shapes: h w pixels, c channels: 1 (gray), 3 (RGB) or 4 (RGB and alpha).
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar, Union

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.structures import ImageSize

T = TypeVar("T")

if TYPE_CHECKING:
    from PIL import Image as PillowImage

Image: TypeAlias = Union[npt.NDArray[Any], Tensor, "PillowImage.Image", str, Path, bytes]
"""One image; see `model.inference.predictor.Predictor.predict`."""

_CHANNELS = (1, 3, 4)
_DEEP_MODES = ("I", "F")
_TAKES = (
    "predict takes an image or a list of images: paths, encoded bytes, PIL images, "
    "(height, width, 3) uint8 arrays or (3, height, width) uint8 tensors"
)


@dataclass(frozen=True)
class InputImage:
    """An image whose size is known; its pixels are made when they are needed.

    Args:
        size: height and width, upright.
        pixels: returns (h, w, 3) uint8 RGB; raises ValueError if a file is damaged.
    """

    size: ImageSize
    pixels: Callable[[], Tensor]


def is_single_image(images: object) -> bool:
    """Whether a value is one image, not a list or batch of images."""
    if isinstance(images, np.ndarray) and images.dtype.kind in "OU":
        return False  # an array of images or of paths
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim < 4
    is_file = isinstance(images, str | Path | bytes | bytearray | memoryview)
    return is_file or hasattr(images, "read") or _is_pillow(images)


def open_images(images: object, floats_are_0_to_1: bool) -> list[InputImage]:
    """Check every image and read its size, but not yet the pixels of files.

    Raises:
        TypeError, ValueError, FileNotFoundError, ImportError: as in `open_image`; also if
            ``images`` is neither an image nor a list.
    """
    if is_single_image(images):
        return [open_image(0, images, floats_are_0_to_1)]
    if not isinstance(images, Sequence | np.ndarray | Tensor):
        hint = "; pass its image" if isinstance(images, dict) else ""
        hint = "; pass list(images)" if hasattr(images, "__next__") else hint
        raise TypeError(f"{_TAKES}; got a value of type {type(images).__name__}{hint}")
    return [open_image(index, image, floats_are_0_to_1) for index, image in enumerate(images)]


def open_image(index: int, image: object, floats_are_0_to_1: bool) -> InputImage:
    """Check an image and read its size.

    Args:
        index: its index in the list, for errors.
        image: in any of the forms that `Image` lists.
        floats_are_0_to_1: whether arrays and tensors of floats are accepted, 1.0 being white.

    Raises:
        TypeError: it is of another type, or has another dtype.
        ValueError: its shape or its number of bits is wrong, or a file is damaged.
        FileNotFoundError: a path names no file.
        ImportError: Pillow is needed and not installed.
    """
    name = f"image {index}"
    if isinstance(image, Tensor):
        return _open_tensor(name, image, floats_are_0_to_1)
    if isinstance(image, np.ndarray):
        return _open_array(name, image, floats_are_0_to_1)
    if isinstance(image, memoryview):
        image = bytes(image)
    if isinstance(image, str | Path | bytes | bytearray):
        return _open_file(name, image)
    if _is_pillow(image):
        return _open_pillow(name, image)
    if hasattr(image, "read"):
        raise TypeError(f"{name} is an open file; pass its path, or the bytes that .read() returns")
    hint = '; pass its "image"' if isinstance(image, dict) and "image" in image else ""
    raise TypeError(
        f"{name} must be a path, encoded bytes, a PIL image, a uint8 array or a uint8 tensor; "
        f"got {type(image).__name__}{hint}"
    )


def _open_array(name: str, array: npt.NDArray[Any], floats_are_0_to_1: bool) -> InputImage:
    shape, ndim = array.shape, array.ndim
    if ndim == 3 and shape[2] not in _CHANNELS and shape[0] in _CHANNELS:
        raise ValueError(
            f"{name}: arrays must be (height, width, channels); got {shape}, which looks like "
            "(channels, height, width): pass array.transpose(1, 2, 0), or a tensor"
        )
    if ndim not in (2, 3) or (ndim == 3 and shape[2] not in _CHANNELS) or 0 in shape:
        raise ValueError(
            f"{name} must be (height, width) or (height, width, 1, 3 or 4) with at least one "
            f"pixel; got {shape}"
        )
    _check_dtype(name, str(array.dtype), np.issubdtype(array.dtype, np.floating), floats_are_0_to_1)

    def pixels() -> Tensor:
        levels = (
            array
            if array.dtype == np.uint8
            else _levels(name, torch.from_numpy(array.astype(np.float32)))
        )
        # torch needs a writable array in C order, although nothing is written here.
        tensor = torch.from_numpy(np.require(levels, requirements=["C", "W"]))
        return _to_rgb(tensor[..., None] if ndim == 2 else tensor)

    return InputImage(ImageSize(*shape[:2]), pixels)


def _open_tensor(name: str, tensor: Tensor, floats_are_0_to_1: bool) -> InputImage:
    shape, ndim = tuple(tensor.shape), tensor.ndim
    if ndim == 3 and shape[0] not in _CHANNELS and shape[2] in _CHANNELS:
        raise ValueError(
            f"{name}: tensors must be (channels, height, width); got {shape}, which looks like "
            "(height, width, channels): pass tensor.permute(2, 0, 1), or tensor.numpy()"
        )
    if ndim != 3 or shape[0] not in _CHANNELS or 0 in shape:
        hint = ": pass tensor[None]" if ndim == 2 and 0 not in shape else ""
        raise ValueError(
            f"{name}: tensors must be (1, 3 or 4 channels, height, width) with at least one "
            f"pixel; got {shape}{hint}"
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    _check_dtype(name, dtype, tensor.is_floating_point(), floats_are_0_to_1)

    def pixels() -> Tensor:
        levels = tensor if tensor.dtype == torch.uint8 else _levels(name, tensor)
        return _to_rgb(levels.permute(1, 2, 0))

    return InputImage(ImageSize(*shape[1:]), pixels)


def _check_dtype(name: str, dtype: str, is_float: bool, floats_are_0_to_1: bool) -> None:
    if dtype == "uint8" or (is_float and floats_are_0_to_1):
        return
    advice = "convert it to uint8 levels from 0 to 255"
    if is_float:
        advice = (
            "if its values are from 0 to 1, pass floats_are_0_to_1=True; if from 0 to 255, "
            "convert it to uint8; a normalized image must be passed as it was before"
        )
    raise TypeError(f"{name} must be uint8; got {dtype}: {advice}")


def _levels(name: str, values: Tensor) -> Tensor:
    """Return the uint8 levels of floats from 0 to 1; exact for levels / 255."""
    lowest, highest = values.min().item(), values.max().item()
    if not (lowest >= 0 and highest <= 1):  # also if a value is NaN
        raise ValueError(
            f"{name}: floats_are_0_to_1 was given; got values from {lowest:g} to {highest:g}. "
            "Divide by 255, undo a normalization, or pass uint8"
        )
    # In float32: float16 has too few digits for 255 levels.
    return (values.float() * 255).round().to(torch.uint8)


def _to_rgb(pixels: Tensor) -> Tensor:
    """Return (h, w, 3) of (h, w, c); alpha is dropped, as in the decoding of files."""
    if pixels.shape[2] == 1:
        pixels = pixels.expand(-1, -1, 3)
    return pixels[..., :3].contiguous()


def _is_pillow(image: object) -> TypeGuard["PillowImage.Image"]:
    # Without importing Pillow: an image of it exists only if it was imported.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(image, module.Image)


def _open_file(name: str, source: str | Path | bytes | bytearray) -> InputImage:
    """Find the size of an image file; a path is read again when the pixels are needed."""
    where = name if isinstance(source, bytes | bytearray) else f"{name} ({source})"
    decoder = _import_decoder(where)

    def run(action: Callable[[bytes], T]) -> T:
        try:
            return action(_read(source))
        except FileNotFoundError:
            raise FileNotFoundError(f"{where}: no such file") from None
        except OSError as error:
            raise ValueError(f"{where} cannot be read: {error.strerror or error}") from None
        except decoder.UnknownFormatError as error:
            raise ValueError(f"{where}: {error}") from None
        except decoder.DecodeError as error:
            raise ValueError(f"{where} cannot be decoded: {error}") from None
        except ValueError as error:  # a path that no file can have
            raise ValueError(f"{where} cannot be read: {error}") from None

    def size(data: bytes) -> ImageSize:
        orientation = decoder.exif_orientation(data)
        return ImageSize(*decoder.upright_size(decoder.stored_size(data), orientation))

    return InputImage(run(size), lambda: torch.from_numpy(run(_decode_writable)))


def _read(source: str | Path | bytes | bytearray) -> bytes:
    if isinstance(source, bytes | bytearray):
        return bytes(source)
    return Path(source).expanduser().read_bytes()


def _decode_writable(data: bytes) -> npt.NDArray[np.uint8]:
    # torch warns of read-only arrays, which Pillow's are.
    return np.require(_import_decoder("an image").decode_image(data), requirements=["C", "W"])


def _open_pillow(name: str, image: "PillowImage.Image") -> InputImage:
    if image.mode.startswith(_DEEP_MODES):
        raise ValueError(
            f"{name} has more than 8 bits per channel (Pillow's mode {image.mode!r}): pass its "
            "file, or convert it to uint8 levels from 0 to 255"
        )
    if 0 in image.size:
        raise ValueError(f"{name} must have at least one pixel; got {image.size}")
    decoder = _import_decoder(name)
    orientation = decoder.orientation_of(image)

    def pixels() -> Tensor:
        stored = np.array(image.convert("RGB"))
        return torch.from_numpy(decoder.turn_upright(stored, orientation))

    return InputImage(ImageSize(*decoder.upright_size(image.size[::-1], orientation)), pixels)


def _import_decoder(name: str) -> Any:
    """Return `model.images.decode`, which arrays and tensors do not need."""
    try:
        from model.images import decode  # noqa: PLC0415 it needs Pillow and simplejpeg
    except ImportError as error:
        raise ImportError(
            f"{name}: image files need Pillow and simplejpeg: pip install pillow simplejpeg, or "
            "pass arrays"
        ) from error
    return decode
