"""A row of a shard with an object of two polygons, a crowd region and an object of one polygon."""

import io
from dataclasses import replace

import numpy as np
import pycocotools.mask as coco_masks
from PIL import Image

from model.structures import ImageSize
from pipeline.shards.row import ShardRow

FIRST = np.array([[2, 2], [9, 2], [9, 9]], dtype=float)
SECOND = np.array([[12, 1], [18, 1], [18, 6], [12, 6]], dtype=float)
THIRD = np.array([[4, 10], [10, 10], [10, 14]], dtype=float)


def row(**changes):
    """Return an image of 16 x 20: an object of two polygons, a crowd region, an object of one."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 20, 3), 50, np.uint8)).save(buffer, "PNG")
    plain = ShardRow(
        image_bytes=buffer.getvalue(),
        size=ImageSize(16, 20),
        image_id=8,
        file_name="x.png",
        boxes=np.array([[2, 1, 18, 9], [0, 0, 20, 16], [4, 10, 10, 14]], dtype=float),
        labels=np.array([3, 1, 2]),
        vertices=np.concatenate([FIRST, SECOND, THIRD]),
        polygon_offsets=np.array([0, 3, 7, 10]),
        object_offsets=np.array([0, 2, 2, 3]),
        rle=(None, "crowd", None),
        iscrowd=np.array([False, True, False]),
        area=np.array([50.0, 320.0, 12.0]),
        annotation_id=np.array([1, 2, 3]),
    )
    return replace(plain, **changes)


def mixed_row(**changes):
    """Return the same image, but the last object has run lengths: rows 10 to 13, columns 4 to 9."""
    bitmap = np.zeros((16, 20), np.uint8, order="F")
    bitmap[10:14, 4:10] = 1
    return row(
        rle=(None, "crowd", coco_masks.encode(bitmap)["counts"].decode()),
        vertices=np.concatenate([FIRST, SECOND]),
        polygon_offsets=np.array([0, 3, 7]),
        object_offsets=np.array([0, 2, 2, 2]),
        **changes,
    )
