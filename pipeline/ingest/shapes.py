"""A synthetic data set in COCO format: five shapes on noisy ground, with exact outlines.

Colour, size, place and rotation say nothing about the class, so only the outline can tell it.
Objects may overlap a little; an outline is that of the whole shape, also where another lies on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SHAPE_CLASSES = ("circle", "square", "triangle", "star", "cross")
_SCALES = (0.20, 0.55)  # larger side of the box, relative to the image
_LARGEST_COVER = 0.25  # share of an object that others may hide
_CONTRAST = 80.0  # least distance of an object's colour from the ground's, of 442
_SUPERSAMPLE = 4
_TRIES = 40

SHAPE_KEYPOINTS = ("top", "left_side", "right_side", "bottom")
SHAPE_SKELETON = ((0, 1), (0, 2), (3, 1), (3, 2))
"""Around the shape, as indices into the names."""

HIDDEN, VISIBLE = 1, 2

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """One drawn object: its class (index into `SHAPE_CLASSES`) and outline (V, 2) in pixels."""

    kind: int
    outline: Floats

    @property
    def box(self) -> Floats:
        """x1 y1 x2 y2."""
        return np.concatenate([self.outline.min(0), self.outline.max(0)])


def draw_image(
    side: int, max_objects: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[Shape]]:
    """One (side, side, 3) picture and its shapes, the lowest first."""
    shapes = _place_shapes(side, int(rng.integers(1, max_objects + 1)), rng)
    ground = rng.uniform(40, 215, 3)
    picture = ground + _texture(side, rng, strength=rng.uniform(8, 30))
    for shape in shapes:
        colour = rng.uniform(0, 255, 3)
        while np.linalg.norm(colour - ground) < _CONTRAST:
            colour = rng.uniform(0, 255, 3)
        fill = colour + _texture(side, rng, strength=rng.uniform(2, 15))
        cover = _coverage(shape.outline, side)[..., None]
        picture = picture * (1 - cover) + fill * cover
    picture += rng.normal(0, rng.uniform(2, 10), picture.shape)
    return picture.clip(0, 255).round().astype(np.uint8), shapes


def _place_shapes(side: int, count: int, rng: np.random.Generator) -> list[Shape]:
    """At least one shape, at most ``count``: those that found room."""
    shapes: list[Shape] = []
    covers: list[NDArray[np.bool_]] = []
    visible: list[NDArray[np.bool_]] = []
    for _ in range(_TRIES * count):
        if len(shapes) == count:
            break
        shape = _random_shape(side, rng)
        cover = _coverage(shape.outline, side) > 0.5
        left = [seen & ~cover for seen in visible]
        kept = (
            now.sum() >= (1 - _LARGEST_COVER) * whole.sum()
            for now, whole in zip(left, covers, strict=True)
        )
        if all(kept):
            shapes.append(shape)
            covers.append(cover)
            visible = [*left, cover]
    return shapes


def _random_shape(side: int, rng: np.random.Generator) -> Shape:
    kind = int(rng.integers(len(SHAPE_CLASSES)))
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outline = unit_outline(SHAPE_CLASSES[kind]) @ turn.T
    extent = np.ptp(outline, axis=0)
    outline = (outline - outline.min(0)) * (rng.uniform(*_SCALES) * side / extent.max())
    room = side - np.ptp(outline, axis=0)
    return Shape(kind, (outline + rng.uniform(0, 1, 2) * room).round(2))


def unit_outline(name: str) -> Floats:
    """The (V, 2) outline of a shape of `SHAPE_CLASSES` around the origin."""
    match name:
        case "circle":
            return _around(np.ones(40))
        case "square":
            return _around(np.ones(4))
        case "triangle":
            return _around(np.ones(3))
        case "star":
            return _around(np.tile([1.0, 0.45], 5))
        case "cross":
            arm = 0.34
            corner = np.array([[1, -arm], [1, arm], [arm, arm]])
            quarter = np.array([[0, 1], [-1, 0]])  # row vectors turn by 90 degrees
            return np.concatenate([corner @ np.linalg.matrix_power(quarter, n) for n in range(4)])
    raise ValueError(f"no shape is called {name!r}; there are {', '.join(SHAPE_CLASSES)}")


def _around(radii: Sequence[float] | Floats) -> Floats:
    angles = np.arange(len(radii)) * (2 * np.pi / len(radii))
    outline: Floats = np.stack([np.cos(angles), np.sin(angles)], 1) * np.asarray(radii)[:, None]
    return outline


def _coverage(outline: Floats, side: int) -> Floats:
    """(side, side) share of each pixel inside the outline."""
    mask = Image.new("L", (side * _SUPERSAMPLE,) * 2)
    # ImageDraw counts from pixel centres, annotations from pixel corners.
    corners = [(x, y) for x, y in (outline * _SUPERSAMPLE - 0.5).tolist()]
    ImageDraw.Draw(mask).polygon(corners, fill=255)
    return np.asarray(mask.reduce(_SUPERSAMPLE), dtype=np.float64) / 255


def _texture(side: int, rng: np.random.Generator, strength: float) -> Floats:
    """(side, side, 3) smooth patches around 0, of a random grain."""
    cells = int(rng.integers(3, max(4, side // 8) + 1))
    coarse = rng.normal(0, strength, (cells, cells, 3))
    layers = [
        Image.fromarray(coarse[..., channel].astype(np.float32)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        for channel in range(3)
    ]
    return np.stack([np.asarray(layer, dtype=np.float64) for layer in layers], 2)


def keypoints_of_shapes(shapes: Sequence[Shape], side: int) -> Floats:
    """Return the outermost points of each shape; points under a later shape are hidden.

    Args:
        shapes: the shapes of one image, bottom first.
        side: width and height of the image, pixels.

    Returns:
        (N, 4, 3) x, y in pixels and visibility.
    """
    covers = [_coverage(shape.outline, side) > 0.5 for shape in shapes]
    points = np.zeros((len(shapes), len(SHAPE_KEYPOINTS), 3))
    for n, shape in enumerate(shapes):
        x, y = shape.outline.T
        corners = shape.outline[[y.argmin(), x.argmin(), x.argmax(), y.argmax()]]
        column, row = np.minimum(corners, side - 1).astype(int).T
        hidden = np.zeros(len(corners), dtype=bool)
        for above in covers[n + 1 :]:
            hidden |= above[row, column]
        points[n, :, :2] = corners
        points[n, :, 2] = np.where(hidden, HIDDEN, VISIBLE)
    return points
