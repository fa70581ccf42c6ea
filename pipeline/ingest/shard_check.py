"""Check shards that are already written: their digests, and every image and mask in them."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from model.images.decode import jpeg_error
from pipeline import storage
from pipeline.ingest.parallel_tasks import run_tasks
from pipeline.shards.manifest import Manifest, ShardFile, read_manifest
from pipeline.shards.row import ShardRow, rows_from_arrow
from pipeline.shards.row_check import row_problems
from pipeline.shards.shard_file import read_open_row_group

logger = logging.getLogger(__name__)

_SHOWN = 20


class DamagedShardsError(storage.StorageError):
    """Shards are damaged; the message lists files, rows and reasons."""


@dataclass(frozen=True)
class Damage:
    """Something that is wrong with a shard.

    Args:
        file: name of the shard.
        row: index of the row in the shard; None if it concerns several rows, or the whole file.
        reason: what is wrong.
    """

    file: str
    row: int | None
    reason: str

    def __str__(self) -> str:
        """Return file, row and reason in one line."""
        row = "" if self.row is None else f" row {self.row}"
        return f"{self.file}{row}: {self.reason}"


@dataclass(frozen=True)
class ShardCheck:
    """A shard to check.

    Args:
        shards_url: its folder.
        file: what the manifest says about it.
        class_count: number of classes of the dataset.
        keypoint_count: number of keypoints that the dataset defines.
    """

    shards_url: str
    file: ShardFile
    class_count: int
    keypoint_count: int


def check_shards(urls: Sequence[str]) -> list[Manifest]:
    """Check all shards of some folders and log each damage; return the folders' manifests.

    If Ray is running, its tasks check several shards at a time. A task holds one shard in memory.

    Raises:
        DamagedShardsError: a shard is damaged, or a folder has no valid manifest.
    """
    found: list[str] = []
    manifests: list[Manifest] = []
    for url in urls:
        try:
            manifests.append(read_manifest(url))
        except storage.StorageError as error:
            logger.warning("%s", error)
            found.append(str(error))
            continue
        found += _check_folder(url, manifests[-1])
    if found:
        more = f"\n  and {len(found) - _SHOWN} more, listed above" if len(found) > _SHOWN else ""
        listed = "\n  ".join(found[:_SHOWN])
        raise DamagedShardsError(
            f"{len(found)} problems:\n  {listed}{more}\nRestore the files from a copy; or delete "
            "them and run maskrcnn-ray prepare_shards without --check, which writes the shards "
            "again from their source"
        )
    return manifests


def _check_folder(url: str, manifest: Manifest) -> Iterator[str]:
    """Yield a line for each damage of the shards in a folder."""
    keypoint_count = 0 if manifest.keypoints is None else len(manifest.keypoints.names)
    tasks = [
        ShardCheck(url, file, len(manifest.categories), keypoint_count) for file in manifest.files
    ]
    image_counts = [file.rows for file in manifest.files]
    for _, damages in run_tasks(check_shard, tasks, image_counts, f"checking {url}"):
        for damage in damages:
            line = storage.join(url, str(damage))
            logger.warning("%s", line)
            yield line
    known = {storage.join(url, file.name) for file in manifest.files}
    for stale in sorted(set(storage.list_files(url, (".parquet",))) - known):
        logger.warning("%s is not in the manifest, so no job reads it", stale)


def check_shard(task: ShardCheck) -> list[Damage]:
    """Return what is wrong with a shard; nothing if it is intact.

    Raises:
        StorageError: the store cannot be read.
    """
    return list(_damages(task))


def _damages(task: ShardCheck) -> Iterator[Damage]:
    name = task.file.name
    try:
        data = storage.read_bytes(storage.join(task.shards_url, name))
    except storage.MissingFileError:
        yield Damage(name, None, "the file is missing")
        return
    is_changed = hashlib.sha256(data).hexdigest() != task.file.sha256
    if is_changed:
        reason = "its SHA-256 differs from the manifest's: it changed after it was written"
        yield Damage(name, None, reason)
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as shard:
            lengths = [shard.metadata.row_group(n).num_rows for n in range(shard.num_row_groups)]
            if lengths != list(task.file.row_groups):
                yield Damage(name, None, f"row groups of {lengths} rows; the manifest lists others")
                return
            for number in range(len(lengths)):
                yield from _group_damages(task, shard, number, is_changed)
    except (OSError, pa.ArrowException) as error:
        yield Damage(name, None, f"not a readable Parquet file: {error}")


def _group_damages(
    task: ShardCheck, shard: pq.ParquetFile, number: int, is_changed: bool
) -> Iterator[Damage]:
    file = task.file
    first = sum(file.row_groups[:number])
    try:
        table = read_open_row_group(shard, number)
    except (OSError, pa.ArrowException, KeyError) as error:
        last = first + file.row_groups[number] - 1
        reason = f"row group {number}, rows {first} to {last}, cannot be read: {error}"
        yield Damage(file.name, None, reason)
        return
    for index in range(table.num_rows):
        try:
            [row] = rows_from_arrow(table.slice(index, 1))
            reasons = list(_row_reasons(task, row, first + index, is_changed))
            named = f"image {row.image_id}, {row.file_name}"
        except (ValueError, TypeError, AttributeError, LookupError, pa.ArrowException) as error:
            reasons, named = [f"not a row of a shard: {error}"], "unknown image"
        for reason in reasons:
            yield Damage(file.name, first + index, f"{reason} ({named})")


def _row_reasons(task: ShardCheck, row: ShardRow, index: int, is_changed: bool) -> Iterator[str]:
    yield from row_problems(row, task.class_count, task.keypoint_count)
    if row.size != task.file.sizes[index]:
        yield f"its size is {tuple(row.size)}, the manifest says {tuple(task.file.sizes[index])}"
    # Harmless irregularities are common; in a file that has changed they are where it changed.
    if is_changed and (error := jpeg_error(row.image_bytes)):
        yield f"probably changed here: {error}"
