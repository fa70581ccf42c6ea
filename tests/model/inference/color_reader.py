"""A detector whose answers are exact: it finds objects by their color, one color per object."""

import numpy as np
import torch
from PIL import Image, ImageDraw

from model import Detections, Detector
from model.structures import ImageSize, MaskRuns
from pipeline.ingest.shapes import SHAPE_CLASSES, unit_outline

CLASSES = len(SHAPE_CLASSES)
CONVENTIONS = {"pixel_order": "rgb", "pixel_mean": (1, 1, 1), "pixel_std": (4, 4, 4)}


class ColorReader(Detector):
    """Detects every object of which a pixel is visible, with its exact mask.

    The color of object n of class k (from 1) is (k, n // 256, n % 256); red 0 is background. Reads
    the normalized pixels that the network gets, which must not be resized.
    ``score_of(label, mask)`` gives the scores; ``with_masks`` says whether it has a mask head.
    """

    score_of = staticmethod(lambda label, mask: 1.0)
    with_masks = True

    def losses(self, features, images, targets):
        raise NotImplementedError

    def candidates(self, features, images):
        raise NotImplementedError

    def select(self, candidates, images):
        raise NotImplementedError

    def forward(self, images, targets=None):
        assert images.sizes == images.original_sizes, "resized pixels have no exact colors"
        return [self.detect_colors(image * 4 + 1) for image in images.unpadded()]

    def detect_colors(self, pixels):
        red, green, blue = pixels.round().long().unbind(2)
        colors = (red << 16) + (green << 8) + blue
        found = [color for color in colors.unique().tolist() if 1 <= color >> 16 <= CLASSES]
        masks = [colors == color for color in found]
        labels = [color >> 16 for color in found]
        scores = [self.score_of(*each) for each in zip(labels, masks, strict=True)]
        best = sorted(range(len(found)), key=lambda n: -scores[n])
        return Detections(
            boxes=torch.tensor([box_of(masks[n]) for n in best]).reshape(-1, 4).float(),
            scores=torch.tensor([scores[n] for n in best]),
            labels=torch.tensor([labels[n] for n in best], dtype=torch.int64),
            masks=runs_of([masks[n] for n in best]) if self.with_masks else None,
            image_size=ImageSize(*colors.shape),
        )


def box_of(mask):
    rows, columns = mask.nonzero().unbind(1)
    corners = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    return [int(side) for side in corners]


def runs_of(masks):
    """Return bitmaps (H, W) as mask runs, found pixel by pixel."""
    columns, tops, bottoms, offsets = [], [], [], [0]
    for mask in masks:
        x1, y1, x2, y2 = box_of(mask)
        padded = np.pad(mask[y1:y2, x1:x2].numpy().astype(np.int8), ((1, 1), (0, 0)))
        steps = np.diff(padded, axis=0).T
        column, top = (steps == 1).nonzero()
        _, bottom = (steps == -1).nonzero()
        columns += (column + x1).tolist()
        tops += (top + y1).tolist()
        bottoms += (bottom + y1).tolist()
        offsets.append(len(columns))
    fields = (columns, tops, bottoms, offsets)
    return MaskRuns(*(torch.tensor(np.array(each), dtype=torch.int64) for each in fields))


class Scene:
    """An image of shapes in colors of their own, which touch but do not cover each other."""

    def __init__(self, height, width):
        self.pixels = np.zeros((height, width, 3), np.uint8)
        self.labels = []

    def add(self, name, size, corner, angle=0.0):
        """Draw a shape whose box starts at ``corner`` x y, and return whether there was room."""
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        outline = unit_outline(name) @ turn.T
        outline = (outline - outline.min(0)) / np.ptp(outline, axis=0).max() * size + corner
        if name in ("star", "cross") and not self._contains(outline):
            return False  # its arms alone would be several objects
        x, y = np.maximum(np.floor(outline.min(0)).astype(int), 0)
        part = self.pixels[y : int(outline[:, 1].max()) + 2, x : int(outline[:, 0].max()) + 2]
        canvas = Image.new("L", part.shape[1::-1])
        points = [tuple(point) for point in (outline - (x, y)).tolist()]
        ImageDraw.Draw(canvas).polygon(points, fill=1)
        mask = np.asarray(canvas, dtype=bool)
        if part[mask].any() or not mask.any():
            return False
        label, number = SHAPE_CLASSES.index(name) + 1, len(self.labels)
        part[mask] = (label, number >> 8, number & 255)
        self.labels.append(label)
        return True

    def _contains(self, outline):
        height, width, _ = self.pixels.shape
        return (outline >= 0).all() and (outline <= (width - 1, height - 1)).all()

    def fill(self, count, sizes, rng):
        """Add shapes at random until there are ``count``."""
        height, width, _ = self.pixels.shape
        while len(self.labels) < count:
            size = rng.uniform(*sizes)
            corner = rng.uniform(-0.3, 1, 2) * (width, height)
            name = SHAPE_CLASSES[rng.integers(len(SHAPE_CLASSES))]
            self.add(name, size, corner, rng.uniform(0, 2 * np.pi))
