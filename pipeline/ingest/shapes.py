"""A synthetic data set in COCO format: five shapes on noisy ground, with exact outlines.

Colour, size, place and rotation say nothing about the class, so only the outline can tell it.
Objects may overlap a little; an outline is that of the whole shape, also where another lies on it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.ingest.shape_keypoints import SHAPE_KEYPOINTS, SHAPE_SKELETON, outermost_points
from pipeline.shards.keypoints import KeypointSet, coco_category_keypoints, coco_keypoints
from pipeline.storage import write_bytes

CLASSES = ("circle", "square", "triangle", "star", "cross")
_SCALES = (0.20, 0.55)  # larger side of the box, relative to the image
_LARGEST_COVER = 0.25  # share of an object that others may hide
_CONTRAST = 80.0  # least distance of an object's colour from the ground's, of 442
_SUPERSAMPLE = 4
_TRIES = 40
_JPEG_QUALITY = 92
_KEYPOINTS = KeypointSet(SHAPE_KEYPOINTS, SHAPE_SKELETON, tuple(range(1, len(CLASSES) + 1)))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """One drawn object: its class (index into `CLASSES`) and outline (V, 2) in pixels."""

    kind: int
    outline: Floats

    @property
    def box(self) -> Floats:
        """x1 y1 x2 y2."""
        return np.concatenate([self.outline.min(0), self.outline.max(0)])


def draw_shapes_dataset(
    folder: Path, images: int, side: int, max_objects: int, seed: int, keypoints: bool = False
) -> tuple[Path, Path]:
    """Draw pictures with annotations, the same for the same arguments.

    Args:
        folder: gets ``annotations.json`` and ``images/``; a finished one is left as it is.
        images: how many.
        side: width and height, pixels.
        max_objects: 1 up to this many objects per image.
        seed: of everything random.
        keypoints: whether to annotate the outermost points of each shape.

    Returns:
        The COCO instances file and the folder of JPEG files.
    """
    annotations_path, images_folder = folder / "annotations.json", folder / "images"
    recipe = {"images": images, "side": side, "max_objects": max_objects, "seed": seed}
    if keypoints:
        recipe["keypoints"] = True
    if annotations_path.exists() and json.loads(annotations_path.read_text())["info"] == recipe:
        return annotations_path, images_folder
    images_folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "info": recipe,
        "categories": [
            {"id": i, "name": name, **coco_category_keypoints(_KEYPOINTS if keypoints else None, i)}
            for i, name in enumerate(CLASSES, 1)
        ],
        "images": [],
        "annotations": [],
    }
    for image_id in range(1, images + 1):
        picture, shapes = draw_picture(side, max_objects, np.random.default_rng([seed, image_id]))
        name = f"{image_id:06d}.jpg"
        Image.fromarray(picture).save(
            images_folder / name, quality=_JPEG_QUALITY, subsampling="4:4:4"
        )
        document["images"].append(
            {"id": image_id, "file_name": name, "height": side, "width": side}
        )
        points = _keypoints(shapes, side) if keypoints else [{}] * len(shapes)
        for shape, pointed in zip(shapes, points, strict=True):
            number = len(document["annotations"]) + 1
            document["annotations"].append(_annotation(number, image_id, shape) | pointed)
    write_bytes(str(annotations_path), json.dumps(document).encode())
    return annotations_path, images_folder


def draw_picture(
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
    kind = int(rng.integers(len(CLASSES)))
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outline = unit_outline(CLASSES[kind]) @ turn.T
    extent = np.ptp(outline, axis=0)
    outline = (outline - outline.min(0)) * (rng.uniform(*_SCALES) * side / extent.max())
    room = side - np.ptp(outline, axis=0)
    return Shape(kind, (outline + rng.uniform(0, 1, 2) * room).round(2))


def unit_outline(name: str) -> Floats:
    """The (V, 2) outline of a shape of `CLASSES` around the origin."""
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
    raise ValueError(f"no shape is called {name!r}; there are {', '.join(CLASSES)}")


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


def _annotation(number: int, image_id: int, shape: Shape) -> dict[str, Any]:
    x1, y1, x2, y2 = shape.box.tolist()
    x, y = shape.outline.T
    area = 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": shape.kind + 1,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "segmentation": [shape.outline.ravel().tolist()],
        "area": area,
        "iscrowd": 0,
    }


def _keypoints(shapes: Sequence[Shape], side: int) -> list[dict[str, Any]]:
    """What each shape's annotation says of its keypoints."""
    outlines = [shape.outline for shape in shapes]
    covers = [_coverage(outline, side) > 0.5 for outline in outlines]
    return [
        {
            "keypoints": [round(value, 2) for value in coco_keypoints(points.tolist())],
            "num_keypoints": len(points),
        }
        for points in outermost_points(outlines, covers)
    ]
