"""Pictures to the network's input beside torchvision's and Pillow's."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as transforms

import ops_cuda
from benchmarks.ops.contest import Contest

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVELS = ([255 * value for value in MEAN], [255 * value for value in STD])
COCO_SIZES = [(480, 640), (427, 640), (640, 480), (500, 375)]


def preprocessing_contests(device: torch.device) -> Iterator[Contest]:
    """Whole batches, resizing alone, and normalising alone."""
    generator = torch.Generator().manual_seed(0)
    pictures = [
        torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8).to(device)
        for size in COCO_SIZES
    ]
    yield _whole_batch("1 of 480x640 to 800/1333", pictures[:1])
    yield _whole_batch("4 of COCO's sizes to 800/1333", pictures)
    yield _whole_batch("1 of 1536x2048 to 800/1333", [pictures[0].repeat(4, 4, 1)[:1536, :2048]])
    yield from _resizing("480x640 to 800x1067", pictures[0], 800, 1067)
    yield from _resizing("480x640 to 400x533", pictures[0], 400, 533)
    yield _normalising(pictures[0].repeat(2, 2, 1)[:800, :1067])


def _whole_batch(size: str, pictures: list[Tensor]) -> Contest:
    """Torchvision's transform gets the float images that its detectors take."""
    theirs = GeneralizedRCNNTransform(800, 1333, list(MEAN), list(STD))
    floats = [picture.permute(2, 0, 1).float() / 255 for picture in pictures]
    batch, _ = theirs(floats)
    sizes, canvas = batch.image_sizes, tuple(batch.tensors.shape[2:])
    return Contest(
        "preprocess",
        size,
        lambda: ops_cuda.preprocess(pictures, sizes, canvas, *LEVELS),
        "GeneralizedRCNNTransform",
        lambda: theirs(floats)[0].tensors,
        same_result=False,  # torchvision's does not antialias, and keeps fractions of levels
    )


def _resizing(size: str, picture: Tensor, height: int, width: int) -> Iterator[Contest]:
    def ours() -> Tensor:
        return ops_cuda.resize_image(picture, height, width)

    yield Contest(
        "resize_image",
        size,
        ours,
        "transforms.v2.resize, HWC strides",
        lambda: transforms.resize(picture.permute(2, 0, 1), [height, width]).permute(1, 2, 0),
    )
    by_pillow = None if picture.is_cuda else _pillow(picture, height, width)
    if by_pillow is not None:
        yield Contest("resize_image", size, ours, "PIL.Image.resize", by_pillow)


def _pillow(picture: Tensor, height: int, width: int) -> Callable[[], Tensor] | None:
    try:
        from PIL import Image  # noqa: PLC0415 - a bare machine may lack it
    except ImportError:
        return None
    image = Image.fromarray(picture.numpy())

    def resize() -> Tensor:
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized))

    return resize


def _normalising(picture: Tensor) -> Contest:
    """A padded batch of a picture that has the right size, as the training stream gives it."""
    size, canvas = tuple(picture.shape[:2]), (800, 1088)
    batch = picture.new_zeros(1, *canvas, 3)
    batch[0, :, : size[1]] = picture
    pixels = batch.permute(0, 3, 1, 2)
    mean, std = (torch.tensor(each, device=picture.device).view(3, 1, 1) for each in LEVELS)

    def by_torch() -> Tensor:
        x = (pixels.float() - mean) / std
        x[0, :, size[0] :] = 0
        x[0, :, :, size[1] :] = 0
        return x.contiguous(memory_format=torch.channels_last)

    return Contest(
        "preprocess without resizing",
        f"1 of {size[0]}x{size[1]}",
        lambda: ops_cuda.preprocess([batch[0, :, : size[1]]], [size], canvas, *LEVELS),
        "torch, tensor by tensor",
        by_torch,
    )
