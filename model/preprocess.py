"""From images of any size to one padded, normalized batch. Shapes as in ``model.structures``."""

from collections.abc import Sequence

import torch
from torch import Tensor

import ops_cuda
from model.config import Conventions
from model.config.conventions import ResizeRounding
from model.structures import ImageBatch, ImageSize


def resized_size(
    size: ImageSize,
    short_side: int,
    long_side: int,
    rounding: ResizeRounding = "nearest",
) -> ImageSize:
    """Return the size with the given short side, or less if the long side would exceed its maximum.

    Args:
        size: height and width of the image.
        short_side: target, pixels.
        long_side: maximum, pixels.
        rounding: "nearest" rounds both sides to the nearest pixel; "floor" rounds both down; "down"
            rounds the short side to the nearest pixel, and the long side computed from it down.

    Source: Detectron's rule, with the rounding of detectron2, torchvision or maskrcnn-benchmark.
    """
    shorter, longer = min(size), max(size)
    if rounding == "down":
        if longer / shorter * short_side > long_side:
            short_side = max(1, round(long_side * shorter / longer))
        scaled = short_side * longer // shorter
        return ImageSize(*(short_side if side == shorter else scaled for side in size))
    scale = min(short_side / shorter, long_side / longer)
    offset = 0.0 if rounding == "floor" else 0.5
    return ImageSize(*(max(1, int(side * scale + offset)) for side in size))


def resize_image(pixels: Tensor, size: ImageSize) -> Tensor:
    """Resize as Pillow does, to the same bits; on the CPU in the calling thread alone.

    Args:
        pixels: (h, w, 3) uint8.
        size: the new height and width.

    Returns:
        (size.height, size.width, 3) uint8; ``pixels`` itself if it has that size already.
    """
    if tuple(pixels.shape[:2]) == size:
        return pixels
    return ops_cuda.resize_image(pixels, *size)


def canvas_size(
    sizes: Sequence[ImageSize], size_divisor: int = 32, at_least: ImageSize | None = None
) -> ImageSize:
    """Return the smallest canvas for images of these sizes, in multiples of the divisor."""
    sizes = [*sizes, at_least] if at_least else sizes
    height = max(size.height for size in sizes)
    width = max(size.width for size in sizes)
    return ImageSize(
        -(-height // size_divisor) * size_divisor, -(-width // size_divisor) * size_divisor
    )


def pad_batch(
    images: Sequence[Tensor],
    original_sizes: Sequence[ImageSize],
    sampling_seeds: Sequence[int] = (),
    size_divisor: int = 32,
    canvas: ImageSize | None = None,
) -> ImageBatch:
    """Copy images to the upper left corner of a common canvas.

    Args:
        images: (h_b, w_b, 3) uint8 each, already resized.
        original_sizes: sizes before resizing.
        sampling_seeds: one per image, for training.
        size_divisor: the canvas is a multiple of this.
        canvas: minimum size, so that all workers of a step share one canvas.

    Returns:
        A batch whose pixels are (B, 3, H, W) uint8 in channels_last layout.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("a batch needs at least one image")
    sizes = tuple(ImageSize(*image.shape[:2]) for image in images)
    height, width = canvas_size(sizes, size_divisor, canvas)
    pixels = torch.empty(len(images), height, width, 3, dtype=torch.uint8)
    for row, image in zip(pixels, images, strict=True):
        write_padded(row, image)
    return ImageBatch(
        pixels.permute(0, 3, 1, 2), sizes, tuple(original_sizes), tuple(sampling_seeds)
    )


def write_padded(canvas: Tensor, image: Tensor) -> None:
    """Write an image (h, w, 3) to the upper left corner of a canvas (H, W, 3), and zeros around."""
    height, width = image.shape[:2]
    canvas[:height, :width] = image
    canvas[:height, width:] = 0
    canvas[height:] = 0


def normalize_images(
    images: Sequence[Tensor],
    sizes: Sequence[ImageSize],
    canvas: ImageSize,
    conventions: Conventions,
) -> Tensor:
    """Resize, normalize and pad images in one pass.

    Args:
        images: (h, w, 3) uint8 RGB, on one device.
        sizes: target size of each image.
        canvas: size of the padded batch.
        conventions: pixel order, mean, deviation and resize filter.

    Returns:
        (B, 3, H, W), zero in the padding: float32, or autocast's dtype if autocast is on, to which
        the first convolution would convert anyway.
    """
    device_type = images[0].device.type
    autocast = torch.is_autocast_enabled(device_type)
    return ops_cuda.preprocess(
        images,
        sizes,
        canvas,
        conventions.pixel_mean,
        conventions.pixel_std,
        reverse_channels=conventions.pixel_order == "bgr",
        antialias=conventions.resize_filter == "antialias",
        dtype=torch.get_autocast_dtype(device_type) if autocast else torch.float32,
    )
