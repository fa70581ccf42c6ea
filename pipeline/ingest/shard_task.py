"""Write one shard: read its images, judge every record, store the good ones as rows."""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.structures import ImageSize
from pipeline import storage
from pipeline.ingest.listing import ImageRecord
from pipeline.ingest.validate import (
    AnnotationError,
    Reject,
    ValidatedObject,
    validate_annotation,
    validate_image,
)
from pipeline.shards.manifest import ShardFile
from pipeline.shards.shard_file import SCHEMA

_READERS = 8  # threads that wait for the store

# Encoded images do not compress and their extremes say nothing.
_PARQUET = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}


@dataclass(frozen=True)
class ShardTask:
    """The making of one shard.

    Args:
        name: file name of the shard.
        shards_url: folder it goes to.
        images: what goes in, in order.
        labels: category id -> label 1..K.
        rows_per_group: images per row group.
        report_url: where the finished shard is remembered.
        keypoint_count: keypoints that the data set names; 0 where it names none.
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
    """What became of a task's records; ``file`` is None where no image was good."""

    file: ShardFile | None
    counts: dict[str, int]
    rejects: tuple[Reject, ...]


def write_shard(task: ShardTask) -> ShardReport:
    """Write one Parquet file, atomically.

    Memory: about two row groups of encoded images.

    Raises:
        StorageError: the store does not answer; a missing image is no error but a reject.
    """
    counts: Counter[str] = Counter()
    rejects: list[Reject] = []
    sizes: list[ImageSize] = []
    groups: list[int] = []
    labelled: list[int] = []
    with tempfile.TemporaryDirectory(prefix="shard-") as scratch:
        path = Path(scratch) / task.name
        with pq.ParquetWriter(path, SCHEMA, **_PARQUET) as writer:
            for group in _row_groups(task, counts, rejects):
                table = pa.Table.from_pylist(group, SCHEMA)
                writer.write_table(table, row_group_size=len(group))
                groups.append(len(group))
                sizes += [ImageSize(row["height"], row["width"]) for row in group]
                labelled += [_labelled_points(row) for row in group if task.keypoint_count]
        if not sizes:
            return ShardReport(None, dict(counts), tuple(rejects))
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        storage.upload_file(path, storage.join(task.shards_url, task.name))
    file = ShardFile(task.name, len(sizes), sha256, tuple(groups), tuple(sizes), tuple(labelled))
    return ShardReport(file, dict(counts), tuple(rejects))


def _row_groups(
    task: ShardTask, counts: Counter[str], rejects: list[Reject]
) -> Iterator[list[dict[str, Any]]]:
    """Full row groups of one orientation each; the last of either may be shorter."""
    upright = [image for image in task.images if image.size.height > image.size.width]
    others = [image for image in task.images if image.size.height <= image.size.width]
    with ThreadPoolExecutor(_READERS) as readers:
        for images in (others, upright):
            group: list[dict[str, Any]] = []
            for first in range(0, len(images), task.rows_per_group):
                chunk = images[first : first + task.rows_per_group]
                contents = readers.map(_read_image, chunk)
                for listed, (image, content, refused) in zip(chunk, contents, strict=True):
                    counts["annotations_quarantined"] += len(refused)
                    # A file of masks may hold some of objects that are not listed.
                    found = len(image.annotations) + len(refused)
                    counts["annotations_listed"] += found - len(listed.annotations)
                    rejects += refused
                    row = _judge_row(image, content, task, counts, rejects)
                    group += [] if row is None else [row]
                if len(group) >= task.rows_per_group:
                    yield group[: task.rows_per_group]
                    group = group[task.rows_per_group :]
            if group:
                yield group


def _read_image(image: ImageRecord) -> tuple[ImageRecord, bytes | Reject, tuple[Reject, ...]]:
    """The image with all its annotations; its bytes, or why they cannot be used; bad masks."""
    url = storage.join(image.images_url, image.file_name)
    try:
        data = storage.read_bytes(url)
    except storage.MissingFileError:
        return image, Reject("image", *_names(image), None, "missing image file", url), ()
    problem = validate_image(data, image.size)
    if problem is not None:
        return image, Reject("image", *_names(image), None, *problem), ()
    if image.mask_files is None:
        return image, data, ()
    try:
        annotations, refused = image.mask_files.complete(image)
    except AnnotationError as error:
        return image, Reject("image", *_names(image), None, error.reason, error.detail), ()
    return replace(image, annotations=annotations), data, refused


def _names(image: ImageRecord) -> tuple[str, int]:
    return image.file_name, image.image_id


def _judge_row(
    image: ImageRecord,
    content: bytes | Reject,
    task: ShardTask,
    counts: Counter[str],
    rejects: list[Reject],
) -> dict[str, Any] | None:
    """The row of an image with its good annotations; None for an image that cannot be used."""
    if isinstance(content, Reject):
        counts["images_quarantined"] += 1
        counts["annotations_quarantined"] += len(image.annotations)
        rejects.append(content)
        rejects += [
            Reject("annotation", *_names(image), a["id"], "its image is quarantined", "")
            for a in image.annotations
        ]
        return None
    objects: list[ValidatedObject] = []
    for annotation in image.annotations:
        try:
            judged = validate_annotation(annotation, image.size, task.labels, task.keypoint_count)
        except AnnotationError as error:
            counts["annotations_quarantined"] += 1
            names = (*_names(image), annotation["id"])
            rejects.append(Reject("annotation", *names, error.reason, error.detail))
            continue
        objects.append(judged)
        counts["crowd" if judged.iscrowd else "objects"] += 1
        counts["without_mask"] += not (judged.has_mask or judged.iscrowd)
        counts["with_keypoints"] += judged.labelled_points > 0 and not judged.iscrowd
        for reason, detail in _mended(judged, annotation, task.keypoint_count, counts):
            names = (*_names(image), judged.annotation_id)
            rejects.append(Reject("annotation", *names, reason, detail, mended=True))
    counts["images"] += 1
    counts["images_without_objects"] += not any(not each.iscrowd for each in objects)
    return _arrow_row(image, content, objects, task.keypoint_count > 0)


def _mended(
    judged: ValidatedObject,
    annotation: Mapping[str, Any],
    keypoint_count: int,
    counts: Counter[str],
) -> Iterator[tuple[str, str]]:
    """What of a good annotation was changed or left out: reason and detail of each, counted."""
    if judged.overshoot:
        counts["clipped"] += 1
        yield "box clipped", f"it overshot the image by {judged.overshoot:.2f} px"
    if judged.points_outside:
        counts["points_outside"] += judged.points_outside
        yield "keypoints outside the image", f"{judged.points_outside}, now not labelled"
    if annotation.get("keypoints") and not keypoint_count:
        counts["keypoints_unnamed"] += 1
        yield "keypoints without names", "the categories give no one list of names for them"


def _labelled_points(row: Mapping[str, Any]) -> int:
    """The labelled keypoints of a row's objects, crowd regions left out."""
    return sum(
        visibility > 0
        for points, iscrowd in zip(row["keypoints"], row["iscrowd"], strict=True)
        for visibility in points[2::3]
        if not iscrowd
    )


def _arrow_row(
    image: ImageRecord, content: bytes, objects: Sequence[ValidatedObject], with_keypoints: bool
) -> dict[str, Any]:
    return {
        "image_bytes": content,
        "height": image.size.height,
        "width": image.size.width,
        "image_id": image.image_id,
        "file_name": image.file_name,
        "boxes": [each.box for each in objects],
        "labels": [each.label for each in objects],
        "polygons": [each.polygons for each in objects],
        "rle": [each.rle for each in objects],
        "iscrowd": [each.iscrowd for each in objects],
        "area": [each.area for each in objects],
        "annotation_id": [each.annotation_id for each in objects],
        "keypoints": [each.keypoints for each in objects] if with_keypoints else None,
    }
