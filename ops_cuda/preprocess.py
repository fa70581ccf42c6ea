"""Resizing of images, and the normalized batch that the network reads.

Shapes: B images, h w one image, H W the batch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ops_cuda.checks import require_one_device, require_positive
from ops_cuda.library import compiled_for
from ops_cuda.registration import register_fake

# 1 in the fixed-point numbers of Pillow's weights.
PILLOW_ONE = 1 << 22
BATCH_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def resize_image(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resize bilinearly with antialiasing; on the CPU only in the calling thread.

    Args:
        pixels: (h, w, 3) uint8, not empty; any row stride.
        height: of the result, pixels.
        width: of the result, pixels.

    Returns:
        (height, width, 3) uint8, the same bits as Pillow's ``Image.resize`` with ``BILINEAR``.

    Raises:
        ValueError: shape, type or size is not as above.

    Source: Pillow 13: a triangle as wide as the scale, in fixed point, rounded after each axis.
    Columns come first, or rows if the height shrinks by more than twice what the width does
    (earlier versions: always columns).
    """
    _require_image("pixels", pixels)
    require_positive("height", height)
    require_positive("width", width)
    if not compiled_for("resize_image", pixels.device):
        return resize_image_reference(pixels, height, width)
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
    """Resize images, normalize them and place them in the upper left corner of a canvas.

    Args:
        images: B images (h, w, 3) uint8 on one device, not empty; any row stride, as in a view
            into a padded batch.
        sizes: height and width that each image is resized to, pixels; its own size leaves the
            pixels unchanged.
        canvas: height and width of the batch, pixels.
        mean: of each channel of the result, in levels of 0..255.
        std: of each channel of the result, in levels.
        reverse_channels: reverse the channel order of the images, as from RGB to BGR.
        dtype: of the result, float32, float16 or bfloat16; computed in float32, rounded once.
        antialias: use the levels of `resize_image`; otherwise interpolate between two pixels of
            each axis, whatever the scale, without rounding, as torch's ``interpolate`` and OpenCV
            do.

    Returns:
        (B, 3, H, W), channels_last: ``(level - mean) * (1 / std)``, and 0 outside the images.

    Raises:
        ValueError: shapes, types, sizes or devices are not as above.
    """
    _check_batch(images, sizes, canvas, mean, std, dtype)
    heights, widths = [size[0] for size in sizes], [size[1] for size in sizes]
    means, stds = list(mean), list(std)
    if not compiled_for("preprocess", images[0].device):
        return preprocess_reference(
            images, heights, widths, *canvas, means, stds, reverse_channels, dtype, antialias
        )
    batch: Tensor = torch.ops.ops_cuda.preprocess(
        list(images), heights, widths, *canvas, means, stds, reverse_channels, dtype, antialias
    )
    return batch


def _require_image(name: str, pixels: Tensor) -> None:
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
        _require_image(f"images[{index}]", image)
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


@register_fake("resize_image")
def _resize_image_fake(pixels: Tensor, height: int, width: int) -> Tensor:
    return pixels.new_empty(height, width, 3)


@register_fake("preprocess")
def _preprocess_fake(
    images: Sequence[Tensor],
    heights: Sequence[int],
    widths: Sequence[int],
    canvas_height: int,
    canvas_width: int,
    mean: Sequence[float],
    std: Sequence[float],
    reverse_channels: bool,
    dtype: torch.dtype,
    antialias: bool,
) -> Tensor:
    return torch.empty(
        (len(images), 3, canvas_height, canvas_width),
        dtype=dtype,
        device=images[0].device,
        memory_format=torch.channels_last,
    )


def resize_image_reference(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resize along one axis, round to levels, then along the other."""
    source_height, source_width = pixels.shape[:2]
    rows_first = height < source_height and source_height - height > 2 * (source_width - width)
    levels = pixels
    for axis in (0, 1) if rows_first else (1, 0):
        weights = _pillow_weights((height, width)[axis], pixels.shape[axis]).to(pixels.device)
        # float64 holds every sum of products exactly
        sums = torch.tensordot(weights, levels.double(), dims=([1], [axis])).movedim(0, axis)
        levels = ((sums + PILLOW_ONE / 2) / PILLOW_ONE).floor()
    return levels.to(torch.uint8).contiguous()


def resize_bilinear_reference(pixels: Tensor, height: int, width: int) -> Tensor:
    """Return the levels (height, width, 3), float64, resized without antialiasing or rounding."""
    rows = _triangle_weights(height, pixels.shape[0], antialias=False).to(pixels.device)
    columns = _triangle_weights(width, pixels.shape[1], antialias=False).to(pixels.device)
    blended = torch.einsum("ys,swc->ywc", rows, pixels.double())
    return torch.einsum("xs,ysc->yxc", columns, blended).contiguous()


def _pillow_weights(length: int, source: int) -> Tensor:
    """Return Pillow's fixed-point weights (length, source) as whole numbers in float64."""
    weights = _triangle_weights(length, source, antialias=True)
    return (0.5 + weights * PILLOW_ONE).floor() * (weights > 0)


def _triangle_weights(length: int, source: int, antialias: bool) -> Tensor:
    """Return the weight (length, source), float64, of each source pixel in each output pixel."""
    scale = source / length
    support = max(scale, 1.0) if antialias else 1.0
    centers = (torch.arange(length, dtype=torch.float64) + 0.5) * scale
    distances = (torch.arange(source) - centers[:, None] + 0.5) * (1.0 / support)
    triangles = (1 - distances.abs()).clamp(min=0)
    # in the order of Pillow's sum, on which the last bit depends
    return triangles / triangles.cumsum(1)[:, -1:]


def preprocess_reference(
    images: Sequence[Tensor],
    heights: Sequence[int],
    widths: Sequence[int],
    canvas_height: int,
    canvas_width: int,
    mean: Sequence[float],
    std: Sequence[float],
    reverse_channels: bool,
    dtype: torch.dtype,
    antialias: bool,
) -> Tensor:
    """Resize, reverse the channels, normalize and pad, image by image."""
    device = images[0].device
    shape = (len(images), canvas_height, canvas_width, 3)
    batch = torch.zeros(shape, dtype=dtype, device=device)
    inverse_std = torch.tensor([1 / value for value in std], device=device)
    for row, image, height, width in zip(batch, images, heights, widths, strict=True):
        if antialias:
            levels = resize_image_reference(image, height, width).float()
        else:
            levels = resize_bilinear_reference(image, height, width).float()
        levels = levels.flip(2) if reverse_channels else levels
        normalized = (levels - torch.tensor(mean, device=device)) * inverse_std
        row[:height, :width] = normalized.to(dtype)
    return batch.permute(0, 3, 1, 2)
