"""Draw training samples exactly as the training stream delivers them.

Shapes: B images, H W pixels, R objects of an image.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image

from model.drawing import DrawnObject, Skeleton, draw_objects
from model.structures.batch_masks import rasterize_masks
from pipeline.config import RunConfig
from pipeline.draw import tile_images
from pipeline.shards.manifest import Manifest
from pipeline.stream.collate import StreamBatch
from pipeline.stream.training_stream import open_local_stream

logger = logging.getLogger(__name__)

_SHORT_SIDE = 360  # pixels of a drawn sample
_COLUMNS = 4


@dataclass(frozen=True)
class SampleSheet:
    """Drawn samples.

    Args:
        image: (H, W, 3) uint8 RGB.
        samples: number of samples in it.
        unreadable: number of rows that were replaced by gray images.
    """

    image: np.ndarray
    samples: int
    unreadable: int


def draw_samples(config: RunConfig, manifest: Manifest, shards_url: str) -> SampleSheet:
    """Draw the first samples of a training, from ``explore.first_step`` on.

    Args:
        config: the job's settings; ``model.num_classes`` may be another than the dataset's.
        manifest: manifest of the training shards.
        shards_url: folder of the shards.

    Raises:
        ConfigError: the dataset's masks or keypoints do not fit the model.
        StorageError: a shard cannot be read.
    """
    classes = len(manifest.categories)
    if config.model.num_classes != classes:
        logger.warning(
            "model.num_classes is %d, but %s has %d classes; set it before training",
            config.model.num_classes,
            shards_url,
            classes,
        )
        model = config.model.model_copy(update={"num_classes": classes})
        config = config.model_copy(update={"model": model})
    first, batch = config.explore.first_step, config.train.global_batch
    steps = -(-config.explore.samples // batch)
    with open_local_stream(config, shards_url, 0, 1, first, first + steps) as stream:
        samples = (sample for each in stream for sample in _drawn_samples(each, manifest))
        images, titles = zip(*islice(samples, config.explore.samples), strict=True)
        unreadable = len(stream.bad_rows)
    return SampleSheet(tile_images(images, titles, _COLUMNS), len(images), unreadable)


def _drawn_samples(batch: StreamBatch, manifest: Manifest) -> Iterator[tuple[np.ndarray, str]]:
    """Yield each image of a micro-batch with its objects, and a title."""
    names = [category.name for category in manifest.categories]
    skeleton = manifest.keypoints.skeleton if manifest.keypoints else ()
    canvas = tuple(batch.images.pixels.shape[2:])
    for index, (height, width) in enumerate(batch.images.sizes):
        pixels = batch.images.pixels[index, :, :height, :width].permute(1, 2, 0).numpy()
        scale = _SHORT_SIDE / min(height, width)
        objects = [_scale(each, scale) for each in _objects(batch, index, names, skeleton)]
        title = (
            f"step {batch.step}: image {batch.targets.image_ids[index]}, {width}x{height} on "
            f"{canvas[1]}x{canvas[0]}"
        )
        yield draw_objects(_resize(pixels, scale), objects, min_short_side=0), title


def _objects(
    batch: StreamBatch, index: int, names: Sequence[str], skeleton: Skeleton
) -> Iterator[DrawnObject]:
    """Yield the objects of an image, as the losses see them, largest first."""
    targets = batch.targets
    height, width = batch.images.sizes[index]
    side = max(height, width)
    whole = torch.tensor([[0.0, 0.0, side, side]])
    first, end = targets.offsets[index : index + 2].tolist()
    boxes = targets.boxes[first:end]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    has_mask = None if targets.masks is None else targets.masks.has_mask()
    for number in (first + areas.argsort(descending=True)).tolist():
        bitmap = None
        if targets.masks is not None and has_mask is not None and has_mask[number]:
            mask = rasterize_masks(targets.masks, torch.tensor([number]), whole, side)
            bitmap = mask[0, :height, :width].numpy()
        x1, y1, x2, y2 = targets.boxes[number].tolist()
        label = int(targets.labels[number])
        keypoints = None if targets.keypoints is None else targets.keypoints[number].numpy()
        yield DrawnObject((x1, y1, x2, y2), names[label - 1], label, bitmap, keypoints, skeleton)


def _resize(pixels: np.ndarray, scale: float) -> np.ndarray:
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _scale(drawn: DrawnObject, scale: float) -> DrawnObject:
    """Return an object in the pixels of the resized image."""
    x1, y1, x2, y2 = (value * scale for value in drawn.box)
    bitmap, keypoints = drawn.bitmap, drawn.keypoints
    if bitmap is not None:
        bitmap = _resize(255 * bitmap.astype(np.uint8), scale) >= 128
    if keypoints is not None:
        keypoints = keypoints * [scale, scale, 1]
    return DrawnObject(
        (x1, y1, x2, y2), drawn.caption, drawn.color_key, bitmap, keypoints, drawn.skeleton
    )
