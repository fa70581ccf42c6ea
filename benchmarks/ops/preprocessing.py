"""Preprocessing of images against torchvision's and Pillow's."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as transforms

import ops_cuda
from benchmarks.ops.comparison import Comparison

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVELS = ([255 * value for value in MEAN], [255 * value for value in STD])
COCO_SIZES = [(480, 640), (427, 640), (640, 480), (500, 375)]


def comparisons(device: torch.device) -> Iterator[Comparison]:
    """Yield whole batches, resizing alone, and normalizing alone."""
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8).to(device)
        for size in COCO_SIZES
    ]
    yield _whole_batch("1 of 480x640 to 800/1333", images[:1])
    yield _whole_batch("4 of COCO's sizes to 800/1333", images)
    yield _whole_batch("1 of 1536x2048 to 800/1333", [images[0].repeat(4, 4, 1)[:1536, :2048]])
    yield from _resizing("480x640 to 800x1067", images[0], 800, 1067)
    yield from _resizing("480x640 to 400x533", images[0], 400, 533)
    yield _normalizing(images[0].repeat(2, 2, 1)[:800, :1067])


def _whole_batch(size: str, images: list[Tensor]) -> Comparison:
    """Compare with torchvision's transform, on the float images that its detectors take."""
    transform = GeneralizedRCNNTransform(800, 1333, list(MEAN), list(STD))
    floats = [image.permute(2, 0, 1).float() / 255 for image in images]
    batch, _ = transform(floats)
    sizes, canvas = batch.image_sizes, tuple(batch.tensors.shape[2:])
    return Comparison(
        "preprocess",
        size,
        lambda: ops_cuda.preprocess(images, sizes, canvas, *LEVELS),
        "GeneralizedRCNNTransform",
        lambda: transform(floats)[0].tensors,
        same_result=False,  # torchvision's does not antialias, and does not round levels
    )


def _resizing(size: str, image: Tensor, height: int, width: int) -> Iterator[Comparison]:
    def ours() -> Tensor:
        return ops_cuda.resize_image(image, height, width)

    yield Comparison(
        "resize_image",
        size,
        ours,
        "transforms.v2.resize, HWC strides",
        lambda: transforms.resize(image.permute(2, 0, 1), [height, width]).permute(1, 2, 0),
    )
    by_pillow = None if image.is_cuda else _pillow(image, height, width)
    if by_pillow is not None:
        yield Comparison("resize_image", size, ours, "PIL.Image.resize", by_pillow)


def _pillow(image: Tensor, height: int, width: int) -> Callable[[], Tensor] | None:
    try:
        from PIL import Image  # noqa: PLC0415 - optional: may be missing on a bare machine
    except ImportError:
        return None
    pillow_image = Image.fromarray(image.numpy())

    def resize() -> Tensor:
        resized = pillow_image.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized))

    return resize


def _normalizing(image: Tensor) -> Comparison:
    """Compare on a padded batch with an image already resized, as in the training stream."""
    size, canvas = tuple(image.shape[:2]), (800, 1088)
    batch = image.new_zeros(1, *canvas, 3)
    batch[0, :, : size[1]] = image
    pixels = batch.permute(0, 3, 1, 2)
    mean, std = (torch.tensor(each, device=image.device).view(3, 1, 1) for each in LEVELS)

    def by_torch() -> Tensor:
        x = (pixels.float() - mean) / std
        x[0, :, size[0] :] = 0
        x[0, :, :, size[1] :] = 0
        return x.contiguous(memory_format=torch.channels_last)

    return Comparison(
        "preprocess without resizing",
        f"1 of {size[0]}x{size[1]}",
        lambda: ops_cuda.preprocess([batch[0, :, : size[1]]], [size], canvas, *LEVELS),
        "torch, tensor by tensor",
        by_torch,
    )
