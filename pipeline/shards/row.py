"""One image and its objects, read from a row of a Parquet shard.

Shapes: G ground-truth objects, N polygons, V vertices, K classes, P keypoints.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.images.decode import STORED, Pixels, decode_image
from model.structures import ImageSize
from pipeline.shards.shard_file import open_shard, read_open_row_group

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ShardRow:
    """One image, still encoded, and its objects in pixels of the original image.

    Args:
        image_bytes: the encoded image, unchanged.
        size: size of the decoded image.
        image_id: our id of the image: the dataset's own, if that is an integer.
        file_name: as in the annotations.
        boxes: (G, 4) x1 y1 x2 y2.
        labels: (G,) 1..K, in the order of the manifest's categories.
        vertices: (V, 2) x y, of all polygons.
        polygon_offsets: (N + 1,) into vertices.
        object_offsets: (G + 1,) into polygons.
        rle: G COCO run-length strings; None if the mask is polygons.
        iscrowd: (G,) bool.
        area: (G,) square pixels, of the mask or, without one, of the box.
        annotation_id: (G,).
        keypoints: (G, P, 3) x, y and visibility: 0 unlabeled, 1 hidden, 2 visible; None if the
            dataset has no keypoints.
        orientation: EXIF orientation that the stored pixels are turned by.
        bit_depth: significant bits of an image with more than 8; None follows the file.
        source_image_id: the dataset's id of the image as JSON; None if ours is the same.
        source_annotation_id: G such ids of annotations.
    """

    image_bytes: bytes
    size: ImageSize
    image_id: int
    file_name: str
    boxes: Floats
    labels: Integers
    vertices: Floats
    polygon_offsets: Integers
    object_offsets: Integers
    rle: tuple[str | None, ...]
    iscrowd: NDArray[np.bool_]
    area: Floats
    annotation_id: Integers
    keypoints: Floats | None = None
    orientation: int = STORED
    bit_depth: int | None = None
    source_image_id: str | None = None
    source_annotation_id: tuple[str | None, ...] = ()

    def decode(self) -> Pixels:
        """Return the image's pixels, (H, W, 3) uint8 RGB, to which all coordinates refer.

        Raises:
            DecodeError: the encoded image is damaged.
        """
        return decode_image(self.image_bytes, self.orientation, self.bit_depth)

    def polygons(self, index: int) -> list[Floats]:
        """Return the polygons of one object, each (V, 2)."""
        first, end = self.object_offsets[index], self.object_offsets[index + 1]
        bounds = self.polygon_offsets[first : end + 1]
        return [
            self.vertices[a:b]
            for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        ]


def rows_from_arrow(table: pa.Table) -> list[ShardRow]:
    """Convert a table with the columns of `SCHEMA`; image_bytes is b"" if the table lacks it."""
    columns: Mapping[str, Any] = {name: table.column(name) for name in table.column_names}
    return [_row(columns, index) for index in range(table.num_rows)]


def _row(columns: Mapping[str, Any], index: int) -> ShardRow:
    value = {name: column[index] for name, column in columns.items()}
    by_object = value["polygons"].values
    by_polygon = by_object.flatten()
    return ShardRow(
        image_bytes=value["image_bytes"].as_py() if "image_bytes" in value else b"",
        size=ImageSize(value["height"].as_py(), value["width"].as_py()),
        image_id=value["image_id"].as_py(),
        file_name=value["file_name"].as_py(),
        boxes=_numbers(value["boxes"].values.flatten()).reshape(-1, 4),
        labels=_numbers(value["labels"].values),
        vertices=_numbers(by_polygon.flatten()).reshape(-1, 2),
        polygon_offsets=_offsets(by_polygon) // 2,
        object_offsets=_offsets(by_object),
        rle=tuple(value["rle"].values.to_pylist()),
        iscrowd=_numbers(value["iscrowd"].values),
        area=_numbers(value["area"].values),
        annotation_id=_numbers(value["annotation_id"].values),
        keypoints=_keypoints(value["keypoints"]),
        orientation=value["orientation"].as_py() or STORED,
        # Schema versions 1 and 2 have no orientation; their 16-bit images use all bits.
        bit_depth=value["bit_depth"].as_py() if value["orientation"].is_valid else 16,
        source_image_id=value["source_image_id"].as_py(),
        source_annotation_id=tuple(value["source_annotation_id"].as_py() or ()),
    )


def _keypoints(by_object: pa.ListScalar) -> Floats | None:
    if by_object.values is None:
        return None
    num_objects = len(by_object.values)
    flat: Floats = _numbers(by_object.values.flatten())
    # A row without objects does not say what P is.
    return flat.reshape(num_objects, -1, 3) if num_objects else np.zeros((0, 0, 3))


def _numbers(array: pa.Array) -> NDArray[Any]:
    # A copy, because a view would pin the whole block in Ray's object store.
    return np.array(array.to_numpy(zero_copy_only=False))


def _offsets(lists: pa.ListArray) -> Integers:
    """Return the offsets of a list array, starting at 0 even if it is a slice of a longer one."""
    offsets: Integers = _numbers(lists.offsets).astype(np.int64)
    offsets -= offsets[0]
    return offsets


def read_rows(shards_url: str, file: str, with_images: bool = True) -> Iterator[ShardRow]:
    """Read the rows of one shard in order, with one row group in memory at a time.

    Raises:
        OSError: the shard is missing or unreadable.
    """
    with open_shard(shards_url, file) as shard:
        for group in range(shard.num_row_groups):
            yield from rows_from_arrow(read_open_row_group(shard, group, with_images))
