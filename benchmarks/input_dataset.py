"""A dataset for ``benchmarks.input``: COCO annotations and JPEG files, and shards of both."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.padding import coco_like_sizes
from benchmarks.peers import draw_ellipses
from model.structures import ImageSize, PolygonMasks, Targets
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shard_writer import write_shards

OBJECTS, CLASSES = 7, 80  # COCO has 7.3 objects per image
_JPEG_QUALITY = 92


def add_dataset_options(parser: argparse.ArgumentParser, count: int) -> None:
    """Add the options of a dataset; without them, ``count`` images are drawn."""
    parser.add_argument("--annotations", type=Path, help="COCO JSON; default: drawn images")
    parser.add_argument("--images", type=Path, help="folder of the image files")
    parser.add_argument("--count", type=int, default=count, help="number of drawn images")


def parse_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; ``--annotations`` and ``--images`` belong together."""
    options = parser.parse_args()
    if (options.annotations is None) != (options.images is None):
        parser.error("--annotations and --images belong together")
    return options


def dataset_files(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Return the annotation file and the folder of images, drawn below ``folder`` if not given."""
    if options.annotations is None:
        return draw_coco_dataset(folder / "drawn", options.count)
    return options.annotations, options.images


def draw_coco_dataset(folder: Path, images: int) -> tuple[Path, Path]:
    """Draw images of COCO's sizes, detail and number of objects.

    Args:
        folder: where to write ``annotations.json`` and ``images/``.
        images: number of images.

    Returns:
        The COCO instances file and the folder of JPEG files.
    """
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, size in enumerate(coco_like_sizes(images, rng).tolist(), start=1):
        height, width = size
        name = f"{number:06d}.jpg"
        path = folder / "images" / name
        _draw_image(height, width, rng).save(path, quality=_JPEG_QUALITY)
        records.append({"id": number, "file_name": name, "height": height, "width": width})
        objects = draw_ellipses(ImageSize(height, width), OBJECTS, CLASSES, number)
        annotations += _annotations(objects, number)
    categories = [{"id": label, "name": f"class {label}"} for label in range(1, CLASSES + 1)]
    document = {
        "images": records,
        "categories": categories,
        "annotations": [{"id": n, **each} for n, each in enumerate(annotations, start=1)],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(document))
    return path, folder / "images"


def prepare_shards(annotations: Path, images: Path, folder: Path) -> str:
    """Write the shards of a dataset; return their URL."""
    write_shards(read_coco(str(annotations), str(images)), str(folder), 512, 32)
    return str(folder)


def _draw_image(height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """Return an image with detail in every scale; its JPEG has about 160 kB, as COCO's."""
    pixels = np.zeros((height, width, 3), np.float32)
    for cells, contrast in ((4, 60), (16, 40), (64, 25), (256, 12)):
        coarse = rng.normal(0, contrast, (cells, cells, 3)).clip(-127, 127)
        layer = Image.fromarray((coarse + 128).astype(np.uint8)).resize((width, height))
        pixels += np.asarray(layer, np.float32) - 128
    pixels += rng.normal(0, 6, pixels.shape)
    return Image.fromarray((pixels + 128).clip(0, 255).astype(np.uint8))


def _annotations(objects: Targets, image_id: int) -> list[dict[str, Any]]:
    if not isinstance(objects.masks, PolygonMasks):
        raise TypeError(f"masks must be polygons; got {type(objects.masks).__name__}")
    polygons = objects.masks.vertices.reshape(len(objects), -1)
    corners = objects.boxes.tolist()
    return [
        {
            "image_id": image_id,
            "category_id": int(label),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "segmentation": [polygon.tolist()],
        }
        for (x1, y1, x2, y2), label, polygon in zip(
            corners, objects.labels.tolist(), polygons, strict=True
        )
    ]
