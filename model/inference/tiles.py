"""Tiled inference: detect in overlapping tiles of a large image, and join the results.

A detector resizes an image to its input size, so small objects of a large image vanish; in a tile
they keep their size. Tiles go through the network a batch at a time, and of each batch only boxes
and runs of pixels stay, so memory does not grow with the number of tiles.

Shapes as in ``model.structures``; W windows: the tiles, and the whole image.
Source: Akyon et al. 2022, "Slicing Aided Hyper Inference and Fine-tuning for Small Object
Detection".
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model.config import TilesConfig
from model.detections import Detections
from model.inference.input_image import InputImage
from model.inference.tile_join import join_windows
from model.inference.tile_layout import Window, tile_windows
from model.structures import ImageSize, MaskRuns

Predict = Callable[[Sequence[InputImage]], list[Detections]]
"""Detect in images, each in its own pixels, on the CPU."""


def fits_into_one_tile(image: InputImage, settings: TilesConfig) -> bool:
    """Return whether an image is not larger than a tile."""
    return max(image.size) <= settings.size


def detect_in_tiles(
    predict: Predict, image: InputImage, settings: TilesConfig, batch_size: int
) -> Detections:
    """Detect the objects of one image in its tiles.

    Args:
        predict: detects in one batch of tiles, or in the whole image.
        image: larger than a tile.
        settings: the tiles, and how results are joined.
        batch_size: tiles that ``predict`` gets at a time.

    Returns:
        Detections in pixels of the image, on the CPU; masks are `MaskRuns`. With "merge" their
        boxes contain all parts of an object.
    """
    whole = Window(0, 0, image.size.width, image.size.height)
    tiles = tile_windows(image.size, settings.size, settings.overlap)
    # The whole image has another shape: in a batch with tiles, these would be padded to it.
    batches = [[whole]] if settings.whole_image else []
    batches += [tiles[n : n + batch_size] for n in range(0, len(tiles), batch_size)]
    pixels = image.pixels()
    parts = [
        _move_to_image(detections, window, image.size)
        for batch in batches
        for window, detections in zip(
            batch, predict([_cut_out(pixels, window) for window in batch]), strict=True
        )
    ]
    return join_windows(parts, [window for batch in batches for window in batch], settings)


def _cut_out(pixels: Tensor, window: Window) -> InputImage:
    left, top, right, bottom = window
    return InputImage(window.size, lambda: pixels[top:bottom, left:right].contiguous())


def _move_to_image(detections: Detections, window: Window, size: ImageSize) -> Detections:
    """Return detections of a window in pixels of the image."""
    left, top, _, _ = window
    masks, keypoints = detections.with_mask_runs().masks, detections.keypoints
    shift = detections.boxes.new_tensor([left, top])
    if keypoints is not None:
        keypoints = torch.cat((keypoints[..., :2] + shift, keypoints[..., 2:]), 2)
    return replace(
        detections,
        boxes=detections.boxes + shift.repeat(2),
        masks=masks.shifted(left, top) if isinstance(masks, MaskRuns) else None,
        keypoints=keypoints,
        image_size=size,
    )
