"""Check that a row of a shard can be trained on: decode its image, its boxes and all its masks."""

from collections.abc import Iterator

import numpy as np

from model.images.decode import DecodeError
from pipeline.shards.row import ShardRow
from pipeline.shards.run_lengths import run_ends

_TOLERANCE_PX = 1e-3


def row_problems(row: ShardRow, class_count: int, keypoint_count: int) -> Iterator[str]:
    """Yield what is wrong with a row; nothing if it is intact.

    Args:
        row: a row with its image.
        class_count: K; labels are 1..K.
        keypoint_count: P; 0 if the dataset has no keypoints.
    """
    try:
        size = row.decode().shape[:2]
        if size != row.size:
            stated = f"{row.size.width}x{row.size.height}"
            yield f"the image is {size[1]}x{size[0]}, its row says {stated}"
    except DecodeError as error:
        yield f"image cannot be decoded: {error}"
    objects = len(row.labels)
    lengths = {
        "boxes": len(row.boxes),
        "polygons": len(row.object_offsets) - 1,
        "rle": len(row.rle),
        "iscrowd": len(row.iscrowd),
        "area": len(row.area),
        "annotation_id": len(row.annotation_id),
    }
    if different := {name: length for name, length in lengths.items() if length != objects}:
        yield f"{objects} labels, but {different}"
        return
    if objects and not 1 <= row.labels.min() <= row.labels.max() <= class_count:
        yield f"labels {sorted(set(row.labels.tolist()))} are not all in 1 to {class_count}"
    yield from _box_problems(row)
    for index in range(objects):
        yield from _mask_problems(row, index)
    if keypoint_count and row.keypoints is not None and objects:
        if row.keypoints.shape[1] != keypoint_count:
            yield f"{row.keypoints.shape[1]} keypoints per object instead of {keypoint_count}"
        if not np.isfinite(row.keypoints).all():
            yield "keypoints that are not finite"


def _box_problems(row: ShardRow) -> Iterator[str]:
    low, high = row.boxes[:, :2], row.boxes[:, 2:]
    limit = np.array([row.size.width, row.size.height]) + _TOLERANCE_PX
    # Comparisons with NaN are false.
    valid = ((low >= -_TOLERANCE_PX) & (high > low) & (high <= limit)).all(axis=1)
    for index in np.flatnonzero(~valid).tolist():
        yield f"object {index}: box {row.boxes[index].tolist()} is empty or outside the image"


def _mask_problems(row: ShardRow, index: int) -> Iterator[str]:
    counts = row.rle[index]
    if counts is not None:
        try:
            run_ends(counts, row.size)
        except DecodeError as error:
            yield f"object {index}: {error}"
    for polygon in row.polygons(index):
        if len(polygon) < 3 or not np.isfinite(polygon).all():
            yield f"object {index}: a polygon has fewer than 3 vertices, or not finite ones"
            return
