"""One image with its objects, as a row of a Parquet shard.

Shapes: N objects, P polygons or keypoints, V vertices.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.structures import ImageSize
from pipeline.shards.shard_file import open_shard, read_group_of, read_row_group

__all__ = ["ShardRow", "read_row_group", "read_rows", "rows_from_arrow"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class ShardRow:
    """One image, still encoded, and its objects in original pixels.

    Args:
        image_bytes: the encoded image, as it came.
        size: of the decoded image.
        image_id: the data set's number for the image.
        file_name: as in the annotations.
        boxes: (N, 4) x1 y1 x2 y2.
        labels: (N,) 1..K, counted in the order of the manifest's categories.
        vertices: (V, 2) of all polygons.
        polygon_offsets: (P + 1,) into vertices.
        object_offsets: (N + 1,) into polygons.
        rle: N COCO run-length strings, None where the object has polygons.
        iscrowd: (N,) bool.
        area: (N,) square pixels, as annotated.
        annotation_id: (N,).
        keypoints: (N, P, 3) x, y and visibility, 0 not labelled, 1 hidden, 2 visible; None where
            the data set names none.
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

    def polygons(self, index: int) -> list[Floats]:
        """The (n, 2) polygons of one object."""
        first, end = self.object_offsets[index], self.object_offsets[index + 1]
        bounds = self.polygon_offsets[first : end + 1]
        return [
            self.vertices[a:b]
            for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        ]


def rows_from_arrow(table: pa.Table) -> list[ShardRow]:
    """The rows of a table with the columns of `SCHEMA`; without image_bytes they are empty."""
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
    )


def _keypoints(by_object: pa.ListScalar) -> Floats | None:
    if by_object.values is None:
        return None
    objects = len(by_object.values)
    flat: Floats = _numbers(by_object.values.flatten())
    # Of an image without objects nobody knows P.
    return flat.reshape(objects, -1, 3) if objects else np.zeros((0, 0, 3))


def _numbers(array: pa.Array) -> NDArray[Any]:
    # Copied: a view would keep the whole block in the object store.
    return np.array(array.to_numpy(zero_copy_only=False))


def _offsets(lists: pa.ListArray) -> Integers:
    """Offsets that begin at 0, also for a slice of a longer array."""
    offsets: Integers = _numbers(lists.offsets).astype(np.int64)
    offsets -= offsets[0]
    return offsets


def read_rows(shards_url: str, file: str, with_images: bool = True) -> Iterator[ShardRow]:
    """The rows of one shard in order, one row group in memory at a time.

    Raises:
        OSError: the shard is missing or unreadable.
    """
    with open_shard(shards_url, file) as shard:
        for group in range(shard.num_row_groups):
            yield from rows_from_arrow(read_group_of(shard, group, with_images))
