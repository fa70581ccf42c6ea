"""A synthetic COCO dataset on disk: images of drawn shapes and their annotations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.ingest.shapes import (
    SHAPE_CLASSES,
    SHAPE_KEYPOINTS,
    SHAPE_SKELETON,
    Shape,
    draw_image,
    keypoints_of_shapes,
)
from pipeline.shards.keypoints import KeypointSet, coco_category_keypoints, coco_keypoints

ANNOTATIONS_FILE, IMAGES_FOLDER = "annotations.json", "images"

_JPEG_QUALITY = 92
_KEYPOINTS = KeypointSet(SHAPE_KEYPOINTS, SHAPE_SKELETON, tuple(range(1, len(SHAPE_CLASSES) + 1)))


def draw_shapes_dataset(
    folder: Path, images: int, side: int, max_objects: int, seed: int, keypoints: bool = False
) -> tuple[Path, Path]:
    """Draw a dataset that depends on nothing but the arguments.

    Args:
        folder: where to write ``annotations.json`` and ``images/``; a complete dataset of the same
            arguments is kept.
        images: number of images.
        side: width and height, pixels.
        max_objects: each image has 1 to this many objects.
        seed: random seed.
        keypoints: whether to annotate the outermost points of each shape.

    Returns:
        The COCO instances file and the folder of JPEG files.
    """
    annotations_path, images_folder = folder / ANNOTATIONS_FILE, folder / IMAGES_FOLDER
    recipe = _recipe(images, side, max_objects, seed, keypoints)
    if is_drawn(str(annotations_path), images, side, max_objects, seed, keypoints):
        return annotations_path, images_folder
    images_folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "info": recipe,
        "categories": [
            {"id": i, "name": name, **coco_category_keypoints(_KEYPOINTS if keypoints else None, i)}
            for i, name in enumerate(SHAPE_CLASSES, 1)
        ],
        "images": [],
        "annotations": [],
    }
    for image_id in range(1, images + 1):
        pixels, shapes = draw_image(side, max_objects, np.random.default_rng([seed, image_id]))
        file_name = f"{image_id:06d}.jpg"
        Image.fromarray(pixels).save(
            images_folder / file_name, quality=_JPEG_QUALITY, subsampling="4:4:4"
        )
        document["images"].append(
            {"id": image_id, "file_name": file_name, "height": side, "width": side}
        )
        keypoint_entries = _keypoints(shapes, side) if keypoints else [{}] * len(shapes)
        for shape, entries in zip(shapes, keypoint_entries, strict=True):
            annotation_id = len(document["annotations"]) + 1
            document["annotations"].append(_annotation(annotation_id, image_id, shape) | entries)
    storage.write_bytes(str(annotations_path), json.dumps(document).encode())
    return annotations_path, images_folder


def is_drawn(
    annotations_url: str, images: int, side: int, max_objects: int, seed: int, keypoints: bool
) -> bool:
    """Whether a complete dataset of these arguments has its annotations at the URL."""
    if not storage.exists(annotations_url):
        return False
    document = storage.read_json(annotations_url)
    return bool(document["info"] == _recipe(images, side, max_objects, seed, keypoints))


def _recipe(
    images: int, side: int, max_objects: int, seed: int, keypoints: bool
) -> dict[str, int | bool]:
    recipe = {"images": images, "side": side, "max_objects": max_objects, "seed": seed}
    return recipe | {"keypoints": True} if keypoints else recipe


def _annotation(annotation_id: int, image_id: int, shape: Shape) -> dict[str, Any]:
    x1, y1, x2, y2 = shape.box.tolist()
    x, y = shape.outline.T
    area = 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": shape.class_index + 1,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "segmentation": [shape.outline.ravel().tolist()],
        "area": area,
        "iscrowd": 0,
    }


def _keypoints(shapes: Sequence[Shape], side: int) -> list[dict[str, Any]]:
    """Return the ``keypoints`` and ``num_keypoints`` of each shape's annotation."""
    return [
        {
            "keypoints": [round(value, 2) for value in coco_keypoints(points.tolist())],
            "num_keypoints": len(points),
        }
        for points in keypoints_of_shapes(shapes, side)
    ]
