"""Synthetic images: five shapes on a noisy background, with exact outlines.

Color, size, position and rotation are independent of the class, so only the outline reveals it.
Shapes may overlap slightly; an outline is that of the whole shape, including covered parts.

Letters: N shapes, V vertices.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SHAPE_CLASSES = ("circle", "square", "triangle", "star", "cross")
SHAPE_KEYPOINTS = ("top", "left_side", "right_side", "bottom")
SHAPE_SKELETON = ((0, 1), (0, 2), (3, 1), (3, 2))
"""Links around the shape, as indices into `SHAPE_KEYPOINTS`."""

_SCALES = (0.20, 0.55)  # longer side of the box, relative to the image
_MAX_HIDDEN_SHARE = 0.25  # of an object, by the others
_MIN_CONTRAST = 80.0  # RGB distance of an object's color from the background's, at most 442
_SUPERSAMPLE = 4
_TRIES_PER_SHAPE = 40
_HIDDEN, _VISIBLE = 1, 2  # COCO's visibility

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """One drawn object.

    Args:
        class_index: index into `SHAPE_CLASSES`.
        outline: (V, 2) x y, pixels.
    """

    class_index: int
    outline: Floats

    @property
    def box(self) -> Floats:
        """Box x1 y1 x2 y2, pixels."""
        return np.concatenate([self.outline.min(0), self.outline.max(0)])


def draw_image(
    side: int, max_objects: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Shape]]:
    """Draw one (side, side, 3) RGB image; return it and its shapes, bottom first."""
    shapes = _place_shapes(side, int(rng.integers(1, max_objects + 1)), rng)
    background = rng.uniform(40, 215, 3)
    image = background + _texture(side, rng, strength=rng.uniform(8, 30))
    for shape in shapes:
        color = rng.uniform(0, 255, 3)
        while np.linalg.norm(color - background) < _MIN_CONTRAST:
            color = rng.uniform(0, 255, 3)
        fill = color + _texture(side, rng, strength=rng.uniform(2, 15))
        alpha = _coverage(shape.outline, side)[..., None]
        image = image * (1 - alpha) + fill * alpha
    image += rng.normal(0, rng.uniform(2, 10), image.shape)
    return image.clip(0, 255).round().astype(np.uint8), shapes


def keypoints_of_shapes(shapes: Sequence[Shape], side: int) -> Floats:
    """Return the outermost points of each shape; those under a later shape are hidden.

    Args:
        shapes: the shapes of one image, bottom first.
        side: width and height of the image, pixels.

    Returns:
        (N, 4, 3) x, y in pixels and visibility.
    """
    masks = [_coverage(shape.outline, side) > 0.5 for shape in shapes]
    points = np.zeros((len(shapes), len(SHAPE_KEYPOINTS), 3))
    for n, shape in enumerate(shapes):
        x, y = shape.outline.T
        corners = shape.outline[[y.argmin(), x.argmin(), x.argmax(), y.argmax()]]
        column, row = np.minimum(corners, side - 1).astype(int).T
        hidden = np.zeros(len(corners), dtype=bool)
        for above in masks[n + 1 :]:
            hidden |= above[row, column]
        points[n, :, :2] = corners
        points[n, :, 2] = np.where(hidden, _HIDDEN, _VISIBLE)
    return points


def _place_shapes(side: int, count: int, rng: np.random.Generator) -> list[Shape]:
    """Place at least one shape and at most ``count``, fewer if there is no room."""
    shapes: list[Shape] = []
    masks: list[NDArray[np.bool_]] = []
    visible: list[NDArray[np.bool_]] = []
    for _ in range(_TRIES_PER_SHAPE * count):
        if len(shapes) == count:
            break
        shape = _random_shape(side, rng)
        mask = _coverage(shape.outline, side) > 0.5
        still_visible = [part & ~mask for part in visible]
        all_recognizable = all(
            part.sum() >= (1 - _MAX_HIDDEN_SHARE) * whole.sum()
            for part, whole in zip(still_visible, masks, strict=True)
        )
        if all_recognizable:
            shapes.append(shape)
            masks.append(mask)
            visible = [*still_visible, mask]
    return shapes


def _random_shape(side: int, rng: np.random.Generator) -> Shape:
    class_index = int(rng.integers(len(SHAPE_CLASSES)))
    angle = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outline = unit_outline(SHAPE_CLASSES[class_index]) @ rotation.T
    extent = np.ptp(outline, axis=0)
    outline = (outline - outline.min(0)) * (rng.uniform(*_SCALES) * side / extent.max())
    room = side - np.ptp(outline, axis=0)
    return Shape(class_index, (outline + rng.uniform(0, 1, 2) * room).round(2))


def unit_outline(name: str) -> Floats:
    """Return the (V, 2) outline of a class of `SHAPE_CLASSES`, centered at the origin."""
    match name:
        case "circle":
            return _polygon(np.ones(40))
        case "square":
            return _polygon(np.ones(4))
        case "triangle":
            return _polygon(np.ones(3))
        case "star":
            return _polygon(np.tile([1.0, 0.45], 5))
        case "cross":
            arm = 0.34
            corner = np.array([[1, -arm], [1, arm], [arm, arm]])
            rotate_90 = np.array([[0, 1], [-1, 0]])  # for row vectors
            arms = [corner @ np.linalg.matrix_power(rotate_90, n) for n in range(4)]
            return np.concatenate(arms)
    raise ValueError(f"unknown shape {name!r}; the shapes are {', '.join(SHAPE_CLASSES)}")


def _polygon(radii: Floats) -> Floats:
    """Return the (V, 2) vertices at these distances from the origin, at equal angles."""
    angles = np.arange(len(radii)) * (2 * np.pi / len(radii))
    outline: Floats = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    return outline


def _coverage(outline: Floats, side: int) -> Floats:
    """Return the (side, side) share of each pixel that is inside the outline."""
    mask = Image.new("L", (side * _SUPERSAMPLE,) * 2)
    # ImageDraw counts from pixel centers, annotations from pixel corners.
    corners = [(x, y) for x, y in (outline * _SUPERSAMPLE - 0.5).tolist()]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    return np.asarray(mask.reduce(_SUPERSAMPLE), dtype=np.float64) / 255


def _texture(side: int, rng: np.random.Generator, strength: float) -> Floats:
    """Return (side, side, 3) smooth noise around 0, of random coarseness."""
    cells = int(rng.integers(3, max(4, side // 8) + 1))
    coarse = rng.normal(0, strength, (cells, cells, 3))
    layers = [
        Image.fromarray(coarse[..., channel].astype(np.float32)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for channel in range(3)
    ]
    return np.stack([np.asarray(layer, dtype=np.float64) for layer in layers], 2)
