"""Pictures resized, and made into the batch that a network reads."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ops_cuda import library, reference
from ops_cuda.checks import require_one_device, require_positive

BATCH_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def resize_image(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resize bilinearly with antialiasing, on the CPU in the calling thread alone.

    Args:
        pixels: (h, w, 3) uint8, not empty; rows may be any distance apart.
        height: of the result, pixels.
        width: of the result, pixels.

    Returns:
        (height, width, 3) uint8, within one level of Pillow's ``Image.resize`` with ``BILINEAR``,
        which rounds after either axis where this rounds once.

    Raises:
        ValueError: shape, type or size is not as above.

    Source: Pillow's filter, a triangle as wide as the scale.
    """
    _require_picture("pixels", pixels)
    require_positive("height", height)
    require_positive("width", width)
    if not library.compiled_for("resize_image", pixels.device):
        return reference.resize_image(pixels, height, width)
    resized: Tensor = torch.ops.ops_cuda.resize_image(pixels, height, width)
    return resized


def preprocess(
    images: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    reverse_channels: bool = False,
    dtype: torch.dtype = torch.float32,
    antialias: bool = True,
) -> Tensor:
    """Resize pictures, normalise them and lay them in the upper left corner of a canvas.

    Args:
        images: B pictures (h, w, 3) uint8 of one device, not empty; rows may be any distance apart,
            as in a view into a padded batch.
        sizes: height and width that each is resized to, pixels; its own leaves it as it is.
        canvas: height and width of the batch, pixels.
        mean: of each channel of the result, in levels of 0..255.
        std: of each channel of the result, in levels.
        reverse_channels: the result's channels are those of the pictures in reverse: BGR of RGB.
        dtype: of the result, float32, float16 or bfloat16; computed in float32, rounded once.
        antialias: levels are those that `resize_image` gives; else they are read between two pixels
            of either axis, whatever the scale, and not rounded, as torch's ``interpolate`` and
            OpenCV do it.

    Returns:
        (B, 3, H, W), channels innermost in memory: ``(level - mean) * (1 / std)``, and 0 outside
        the pictures.

    Raises:
        ValueError: shapes, types, sizes or devices are not as above.
    """
    _check_batch(images, sizes, canvas, mean, std, dtype)
    heights, widths = [size[0] for size in sizes], [size[1] for size in sizes]
    means, stds = list(mean), list(std)
    if not library.compiled_for("preprocess", images[0].device):
        return reference.preprocess(
            images, heights, widths, *canvas, means, stds, reverse_channels, dtype, antialias
        )
    batch: Tensor = torch.ops.ops_cuda.preprocess(
        list(images), heights, widths, *canvas, means, stds, reverse_channels, dtype, antialias
    )
    return batch


def _require_picture(name: str, pixels: Tensor) -> None:
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        hint = " Channels first? .permute(1, 2, 0)" if pixels.shape[:1] == (3,) else ""
        raise ValueError(f"{name} must be (h, w, 3), not empty; got {tuple(pixels.shape)}.{hint}")
    if pixels.dtype != torch.uint8:
        raise ValueError(f"{name} must be uint8; got {pixels.dtype}")


def _check_batch(
    images: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> None:
    if not images:
        raise ValueError("a batch needs at least one image")
    if len(sizes) != len(images):
        raise ValueError(f"{len(images)} images but {len(sizes)} sizes: one per image")
    for index, (image, (height, width)) in enumerate(zip(images, sizes, strict=True)):
        _require_picture(f"images[{index}]", image)
        require_one_device(**{"images[0]": images[0], f"images[{index}]": image})
        if not (0 < height <= canvas[0] and 0 < width <= canvas[1]):
            raise ValueError(
                f"sizes[{index}] must be positive and fit the canvas of {tuple(canvas)}; "
                f"got {(height, width)}"
            )
    if len(mean) != 3 or not all(math.isfinite(value) for value in mean):
        raise ValueError(f"mean must be three finite levels; got {list(mean)}")
    if len(std) != 3 or not all(math.isfinite(value) and value > 0 for value in std):
        raise ValueError(f"std must be three positive levels; got {list(std)}")
    if dtype not in BATCH_TYPES:
        raise ValueError(f"dtype must be one of {BATCH_TYPES}; got {dtype}")
