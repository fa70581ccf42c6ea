"""Write one shard: read its images, validate every record, and store the valid ones as rows."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.structures import ImageSize
from pipeline import storage
from pipeline.ingest.listing import Annotation, ImageRecord
from pipeline.ingest.validate import (
    InvalidRecordError,
    Reject,
    ValidatedObject,
    validate_annotation,
    validate_image,
)
from pipeline.shards.aspect_bins import BIN_COUNT, aspect_bins
from pipeline.shards.manifest import ShardFile
from pipeline.shards.shard_file import SCHEMA

_READ_THREADS = 8  # they mostly wait for the store

# Encoded images do not compress, and their minimum and maximum are useless.
_PARQUET_OPTIONS = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}


@dataclass(frozen=True)
class ShardTask:
    """What to write into one shard.

    Args:
        name: file name of the shard.
        shards_url: folder to write it to.
        images: its images, in order.
        labels: category id -> label 1..K.
        rows_per_group: images per row group.
        report_url: where to store the report of the finished shard.
        keypoint_count: number of keypoints the dataset defines.
    """

    name: str
    shards_url: str
    images: tuple[ImageRecord, ...]
    labels: dict[int, int]
    rows_per_group: int
    report_url: str
    keypoint_count: int = 0


@dataclass(frozen=True)
class ShardReport:
    """The result of a task; ``file`` is None if no image was valid."""

    file: ShardFile | None
    counts: dict[str, int]
    rejects: tuple[Reject, ...]


def write_shard(task: ShardTask) -> ShardReport:
    """Write one Parquet file atomically.

    Memory: about two row groups of encoded images.

    Raises:
        StorageError: the store cannot be read or written. A missing image is not an error; it is
            quarantined.
    """
    counts: Counter[str] = Counter()
    rejects: list[Reject] = []
    sizes: list[ImageSize] = []
    row_groups: list[int] = []
    keypoints_per_image: list[int] = []
    with tempfile.TemporaryDirectory(prefix="shard-") as scratch:
        path = Path(scratch) / task.name
        with pq.ParquetWriter(path, SCHEMA, **_PARQUET_OPTIONS) as writer:
            for group in _row_groups(task, counts, rejects):
                table = pa.Table.from_pylist(group, SCHEMA)
                writer.write_table(table, row_group_size=len(group))
                row_groups.append(len(group))
                sizes += [ImageSize(row["height"], row["width"]) for row in group]
                if task.keypoint_count:
                    keypoints_per_image += [_count_labeled_keypoints(row) for row in group]
        if not sizes:
            return ShardReport(None, dict(counts), tuple(rejects))
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        storage.upload_file(path, storage.join(task.shards_url, task.name))
    file = ShardFile(
        name=task.name,
        rows=len(sizes),
        sha256=sha256,
        row_groups=tuple(row_groups),
        sizes=tuple(sizes),
        labelled_points=tuple(keypoints_per_image),
    )
    return ShardReport(file, dict(counts), tuple(rejects))


def _row_groups(
    task: ShardTask, counts: Counter[str], rejects: list[Reject]
) -> Iterator[list[dict[str, Any]]]:
    """Yield full row groups of one aspect bin each; the last of each may be shorter."""
    bins = aspect_bins([image.size for image in task.images])
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        for number in range(BIN_COUNT):
            images = [task.images[index] for index in np.flatnonzero(bins == number)]
            group: list[dict[str, Any]] = []
            for first in range(0, len(images), task.rows_per_group):
                chunk = images[first : first + task.rows_per_group]
                for image, loaded in zip(chunk, pool.map(_load_image, chunk), strict=True):
                    if isinstance(loaded, Reject):
                        _quarantine_image(image, loaded, counts, rejects)
                    else:
                        group.append(_make_row(image, loaded, task, counts, rejects))
                if len(group) >= task.rows_per_group:
                    yield group[: task.rows_per_group]
                    group = group[task.rows_per_group :]
            if group:
                yield group


@dataclass(frozen=True)
class _LoadedImage:
    """The bytes of a valid image, its annotations with masks, and rejects for invalid masks."""

    data: bytes
    annotations: tuple[Annotation, ...]
    mask_rejects: tuple[Reject, ...] = ()


def _load_image(image: ImageRecord) -> _LoadedImage | Reject:
    """Read and validate an image and the masks its annotations lack."""
    url = storage.join(image.images_url, image.file_name)
    try:
        data = storage.read_bytes(url)
    except storage.MissingFileError:
        return Reject("image", image.file_name, image.image_id, None, "missing image file", url)
    try:
        validate_image(data, image.size)
        if image.mask_source is None:
            return _LoadedImage(data, image.annotations)
        return _LoadedImage(data, *image.mask_source.add_masks(image))
    except InvalidRecordError as error:
        return Reject("image", image.file_name, image.image_id, None, error.reason, error.detail)


def _quarantine_image(
    image: ImageRecord, reject: Reject, counts: Counter[str], rejects: list[Reject]
) -> None:
    counts["images_quarantined"] += 1
    counts["annotations_quarantined"] += len(image.annotations)
    rejects.append(reject)
    rejects += [
        Reject("annotation", image.file_name, image.image_id, a["id"], "image quarantined", "")
        for a in image.annotations
    ]


def _make_row(
    image: ImageRecord,
    loaded: _LoadedImage,
    task: ShardTask,
    counts: Counter[str],
    rejects: list[Reject],
) -> dict[str, Any]:
    """Return the row of a valid image with its valid annotations."""
    counts["annotations_quarantined"] += len(loaded.mask_rejects)
    # A mask file may hold masks of objects that the annotations do not list.
    counts["annotations_listed"] += len(loaded.annotations) + len(loaded.mask_rejects)
    counts["annotations_listed"] -= len(image.annotations)
    rejects += loaded.mask_rejects
    objects: list[ValidatedObject] = []
    for annotation in loaded.annotations:
        ids = (image.file_name, image.image_id, annotation["id"])
        try:
            valid = validate_annotation(annotation, image.size, task.labels, task.keypoint_count)
        except InvalidRecordError as error:
            counts["annotations_quarantined"] += 1
            rejects.append(Reject("annotation", *ids, error.reason, error.detail))
            continue
        objects.append(valid)
        counts["crowd" if valid.iscrowd else "objects"] += 1
        counts["without_mask"] += not (valid.has_mask or valid.iscrowd)
        counts["with_keypoints"] += valid.num_keypoints > 0 and not valid.iscrowd
        for reason, detail in _corrections(valid, annotation, task.keypoint_count, counts):
            rejects.append(Reject("annotation", *ids, reason, detail, mended=True))
    counts["images"] += 1
    counts["images_without_objects"] += all(item.iscrowd for item in objects)
    return _arrow_row(image, loaded.data, objects, task.keypoint_count > 0)


def _corrections(
    valid: ValidatedObject, annotation: Annotation, keypoint_count: int, counts: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Count the corrections of a valid annotation; yield the reason and detail of each."""
    if valid.overshoot:
        counts["clipped"] += 1
        yield "box clipped", f"it extended {valid.overshoot:.2f} px beyond the image"
    if valid.points_outside:
        counts["points_outside"] += valid.points_outside
        yield "keypoints outside the image", f"{valid.points_outside} stored as unlabeled"
    if annotation.get("keypoints") and not keypoint_count:
        counts["keypoints_unnamed"] += 1
        yield "keypoints left out", "the categories do not share one list of keypoint names"


def _count_labeled_keypoints(row: Mapping[str, Any]) -> int:
    """Count the labeled keypoints of a row's objects, not of its crowd regions."""
    return sum(
        visibility > 0
        for points, iscrowd in zip(row["keypoints"], row["iscrowd"], strict=True)
        for visibility in points[2::3]
        if not iscrowd
    )


def _arrow_row(
    image: ImageRecord, data: bytes, objects: Sequence[ValidatedObject], with_keypoints: bool
) -> dict[str, Any]:
    return {
        "image_bytes": data,
        "height": image.size.height,
        "width": image.size.width,
        "image_id": image.image_id,
        "file_name": image.file_name,
        "boxes": [item.box for item in objects],
        "labels": [item.label for item in objects],
        "polygons": [item.polygons for item in objects],
        "rle": [item.rle for item in objects],
        "iscrowd": [item.iscrowd for item in objects],
        "area": [item.area for item in objects],
        "annotation_id": [item.annotation_id for item in objects],
        "keypoints": [item.keypoints for item in objects] if with_keypoints else None,
    }
