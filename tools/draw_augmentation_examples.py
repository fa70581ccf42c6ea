"""Draw the images of docs/AUGMENTATION.md: batches of the training stream, of drawn shapes.

python tools/draw_augmentation_examples.py
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from model.drawing import DrawnObject, draw_objects
from model.structures import ImageSize
from model.structures.batch_masks import rasterize_masks
from pipeline.config import RunConfig
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shapes import SHAPE_CLASSES, SHAPE_KEYPOINTS
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_writer import write_shards
from pipeline.stream.collate import StreamBatch
from pipeline.stream.training_stream import open_local_stream

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "augmentation"
IMAGES = 4  # per row
SIDE = 240  # pixels of an image in a row
GAP = 6

JITTER = {"side": SIDE, "min_scale": 0.3, "max_scale": 1.7}
EXAMPLES: dict[str, dict[str, Any]] = {
    "none": {},
    "flips": {"flip_probability": 0.5, "vertical_flip_probability": 0.5},
    "quarter_turns": {"quarter_turn_probability": 1.0},
    "random_crop": {"random_crop": {"size": (0.4, 0.4), "with_object": True}},
    "scale_jitter": {"scale_jitter": JITTER},
    "color_jitter": {
        "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.5, "hue": 0.2}
    },
    "copy_paste": {"copy_paste_probability": 1.0},
    "copy_paste_scale_jitter": {"copy_paste_probability": 1.0, "scale_jitter": JITTER},
}
"""Name of the file -> settings below ``data``, beside no flips."""


def main() -> None:
    """Write one image per example to docs/augmentation."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        annotations, images = draw_shapes_dataset(
            Path(scratch) / "drawn", 2 * IMAGES, SIDE, 4, seed=5, keypoints=True
        )
        shards = str(Path(scratch) / "shards")
        write_shards(read_coco(str(annotations), str(images)), shards, 8, 8)
        for name, settings in EXAMPLES.items():
            row = _draw_batch(_first_batch(shards, settings))
            Image.fromarray(row).save(FOLDER / f"{name}.jpg", quality=85, optimize=True)


def _first_batch(shards: str, settings: dict[str, Any]) -> StreamBatch:
    config = RunConfig.model_validate(
        {
            "seed": 2,
            "model": {
                "num_classes": len(SHAPE_CLASSES),
                "input": {"short_side": SIDE, "long_side": SIDE, "size_divisor": 1},
                "keypoint": {"names": SHAPE_KEYPOINTS},
            },
            "data": {"flip_probability": 0.0, **settings},
            "train": {"global_batch": IMAGES},
        }
    )
    with open_local_stream(config, shards, 0, 1, 0, 1) as stream:
        return next(stream)


def _draw_batch(batch: StreamBatch) -> np.ndarray:
    """Return the padded images of a batch in a row, with their objects."""
    tiles = []
    offsets = batch.targets.offsets.tolist()
    for index, padded in enumerate(batch.images.pixels):
        rows = range(*offsets[index : index + 2])
        objects = _objects(batch, rows, batch.images.sizes[index])
        drawn = draw_objects(padded.permute(1, 2, 0).numpy(), objects)
        # draw_objects enlarges small images.
        tile = Image.fromarray(drawn).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        tiles += [np.asarray(tile), np.full((SIDE, GAP, 3), 255, dtype=np.uint8)]
    return np.concatenate(tiles[:-1], axis=1)


def _objects(batch: StreamBatch, rows: range, size: ImageSize) -> list[DrawnObject]:
    targets, (height, width) = batch.targets, batch.images.canvas
    side = max(height, width)
    whole = torch.tensor([[0.0, 0.0, side, side]]).repeat(len(rows), 1)
    masks, keypoints = targets.masks, targets.keypoints
    if masks is None or keypoints is None:
        raise ValueError("the examples show masks and keypoints")
    bitmaps = rasterize_masks(masks, torch.tensor(rows), whole, side)[:, :height, :width]
    # Masks are not cut at the border of a crop, because they are read only inside boxes.
    bitmaps[:, size.height :] = 0
    bitmaps[:, :, size.width :] = 0
    return [
        DrawnObject(
            box=tuple(targets.boxes[row].tolist()),
            caption=SHAPE_CLASSES[int(targets.labels[row]) - 1],
            color_key=int(targets.labels[row]),
            bitmap=bitmap.numpy(),
            keypoints=keypoints[row].numpy(),
        )
        for row, bitmap in zip(rows, bitmaps, strict=True)
    ]


if __name__ == "__main__":
    main()
