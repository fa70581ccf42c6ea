"""Cut the rows of large images into rows of tiles, whose masks together are those of the image.

Source: Akyon et al. 2022, "Slicing Aided Hyper Inference and Fine-tuning for Small Object
Detection": training on tiles.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from PIL import Image

from model.images.decode import STORED, Pixels, decode_image
from model.inference.tile_layout import Window, tile_windows
from model.structures import ImageSize
from pipeline.config.data_tiles import DataTilesConfig
from pipeline.ingest.tile_objects import ObjectCutter

_ID_BITS = 16  # of an image id for the tile, and of an annotation id for the object in it
_PNG_LEVEL = 3  # a third larger than 6, at a third of the time

Row = dict[str, Any]
"""The columns of a shard's row."""


def expected_rows(size: ImageSize | None, settings: DataTilesConfig | None) -> int:
    """Return the number of rows that an image becomes; 1 if its size is not known yet."""
    if settings is None or size is None:
        return 1
    return len(tile_windows(size, settings.size, settings.overlap))


def cut_row(
    row: Row, number: int, settings: DataTilesConfig, counts: Counter[str]
) -> Iterator[Row]:
    """Yield the rows of an image's tiles, or its own row if it fits into one tile.

    All rows get ids that no other image has; ``source_image_id`` and ``source_annotation_id`` keep
    those of the dataset. The file name of a tile ends in its x and y in the image.

    Args:
        row: of the whole image.
        number: of the image in its split, from 0.
        settings: size and overlap of the tiles, and what becomes of cut objects.
        counts: the counts of the manifest, which are added to.

    Raises:
        ValueError: an image has more than 65,536 tiles, or a tile more objects.
    """
    size = ImageSize(row["height"], row["width"])
    source_id = row["source_image_id"] or json.dumps(row["image_id"])
    windows = tile_windows(size, settings.size, settings.overlap)
    first_id = (number + 1) << _ID_BITS
    if len(windows) == 1:
        counts["images_not_cut"] += 1
        source_ids = zip(row["source_annotation_id"], row["annotation_id"], strict=True)
        yield row | {
            "image_id": first_id,
            "source_image_id": source_id,
            "annotation_id": _number_objects(row, first_id),
            "source_annotation_id": [given or json.dumps(own) for given, own in source_ids],
        }
        return
    _check_count(len(windows), f"{row['file_name']} has", "tiles: use a larger data.tiles.size")
    pixels = decode_image(row["image_bytes"], row["orientation"], row["bit_depth"])
    cutter = ObjectCutter(row, size, settings, counts)
    for index, window in enumerate(windows):
        objects = cutter.cut(window)
        if settings.empty_tiles == "drop" and not objects["labels"]:
            counts["tiles_dropped"] += 1
            continue
        counts["tiles"] += 1
        tile = _tile_row(row, pixels, window) | objects
        yield tile | {
            "image_id": first_id + index,
            "source_image_id": source_id,
            "annotation_id": _number_objects(tile, first_id + index),
        }


def _tile_row(row: Mapping[str, Any], pixels: Pixels, window: Window) -> Row:
    left, top, right, bottom = window
    path = PurePosixPath(row["file_name"])
    file = io.BytesIO()
    # Without loss: a second JPEG compression would add artifacts that whole images do not have.
    Image.fromarray(pixels[top:bottom, left:right]).save(
        file, format="PNG", compress_level=_PNG_LEVEL
    )
    return dict(row) | {
        "image_bytes": file.getvalue(),
        "height": window.size.height,
        "width": window.size.width,
        "file_name": str(path.with_name(f"{path.stem}_{left}_{top}.png")),
        "orientation": STORED,
        "bit_depth": None,
    }


def _number_objects(row: Mapping[str, Any], image_id: int) -> list[int]:
    count = len(row["labels"])
    _check_count(count, f"{row['file_name']} has", "objects")
    return [image_id << _ID_BITS | number for number in range(count)]


def _check_count(count: int, owner: str, what: str) -> None:
    if count > 1 << _ID_BITS:
        raise ValueError(f"{owner} {count} {what}; at most {1 << _ID_BITS} can be numbered")
