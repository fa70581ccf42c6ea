"""Small images of objects of one color each: every pixel says which object it belongs to."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from model.structures import ImageSize, MixedMasks, PolygonMasks, Targets
from model.structures.batch_masks import join_masks, rasterize_masks
from pipeline.stream.augmentation.apply import TrainingSample
from pipeline.stream.augmentation.mask_crops import MaskCrop, encode_crops

BACKGROUND = 0
MASKS = ("polygons", "runs", "none")


@dataclass(frozen=True)
class Scene:
    """An image whose objects have the labels in ``ids``.

    Args:
        sample: the image; every object has one keypoint, on one of its pixels.
        ids: (H, W) int, the label of the object at each pixel, or `BACKGROUND`.
    """

    sample: TrainingSample
    ids: np.ndarray


def color_of(ids):
    """Return the colors (..., 3) uint8 of labels up to 255."""
    ids = np.asarray(ids)
    return np.stack([ids, 255 - ids, ids * 37 % 256], axis=-1).astype(np.uint8)


def scene_of(ids, kinds, labels=None):
    """Return the scene of a map of labels; an object without pixels is left out.

    Args:
        ids: (H, W) int; see `Scene`.
        kinds: representation of the mask of each label, of ``MASKS``; polygons only where the
            object is a rectangle, else runs.
        labels: order of the objects; by default that of ``kinds``.
    """
    present = [label for label in (labels or kinds) if (ids == label).any()]
    boxes, crops, corners, points = [], [], [], []
    for label in present:
        rows, columns = np.nonzero(ids == label)
        x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        crop = MaskCrop((ids == label)[y1:y2, x1:x2], int(x1), int(y1))
        as_polygon = kinds[label] == "polygons" and crop.bitmap.all()
        boxes.append([x1, y1, x2, y2])
        corners.append([[x1, y1], [x2, y1], [x2, y2], [x1, y2]] if as_polygon else [])
        crops.append(None if as_polygon or kinds[label] == "none" else crop)
        middle = len(rows) // 2
        points.append([[columns[middle] + 0.5, rows[middle] + 0.5, 2.0]])
    counts = [len(each) > 0 for each in corners]
    polygons = PolygonMasks(
        torch.tensor([point for each in corners for point in each], dtype=torch.float32).reshape(
            -1, 2
        ),
        4 * torch.arange(sum(counts) + 1),
        torch.tensor(np.cumsum([0, *counts])),
    )
    targets = Targets(
        torch.tensor(np.array(boxes, dtype=np.float32).reshape(-1, 4)),
        torch.tensor(present, dtype=torch.int64),
        MixedMasks(polygons, encode_crops(crops)),
        torch.tensor(np.array(points, dtype=np.float32).reshape(-1, 1, 3)),
        image_id=5,
    )
    pixels = torch.from_numpy(color_of(ids))
    return Scene(TrainingSample(pixels, targets, ImageSize(*ids.shape)), ids)


@st.composite
def scenes(draw, first_label=1, max_side=24, max_objects=5, kinds=MASKS):
    """Draw a scene of up to ``max_objects`` rectangles and blobs, some of them of one pixel."""
    height, width = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    ids = np.full((height, width), BACKGROUND)
    kind_of = {}
    for label in range(first_label, first_label + draw(st.integers(0, max_objects))):
        kind_of[label] = draw(st.sampled_from(kinds))
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        below, right = draw(st.integers(1, height)), draw(st.integers(1, width))
        area = ids[top : top + below, left : left + right]
        if draw(st.booleans()):
            area[...] = label
        else:
            noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
            area[noise.random(area.shape) < 0.5] = label
    return scene_of(ids, kind_of)


def bitmaps_of(targets, size):
    """Return the masks as (N, H, W) bool; those without a mask are empty."""
    if not len(targets):
        return np.zeros((0, *size), dtype=bool)
    masks = join_masks([targets.masks], torch.device("cpu"))
    side = max(size)
    boxes = torch.tensor([[0.0, 0.0, side, side]]).repeat(len(targets), 1)
    drawn = rasterize_masks(masks, torch.arange(len(targets)), boxes, side)
    return drawn[:, : size[0], : size[1]].numpy() > 0


def has_mask(targets):
    """Return (N,) bool: whether each object has polygons or runs."""
    return join_masks([targets.masks], torch.device("cpu")).has_mask()[:-1].numpy()


def bounds(bitmap):
    """Return x1 y1 x2 y2 of the set pixels of a bitmap."""
    rows, columns = np.nonzero(bitmap)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
