"""The folder that a dataset's shards are written to: resumable, with the manifest written last.

Until then ``parts/`` holds a report of each finished shard, so that a killed job resumes there.
"""

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from pydantic import TypeAdapter

from pipeline import storage
from pipeline.ingest.shard_task import ShardReport
from pipeline.shards.image_contents import complete_manifest
from pipeline.shards.manifest import (
    MANIFEST_NAME,
    QUARANTINE_NAME,
    Manifest,
    read_manifest,
    write_manifest,
)

logger = logging.getLogger(__name__)

_PARTS = "parts"
_REPORT: TypeAdapter[ShardReport] = TypeAdapter(ShardReport)


class ReportedTask(Protocol):
    """A task that writes one shard, and stores its report when it is finished."""

    @property
    def report_url(self) -> str:
        """Where the report is stored."""


Task = TypeVar("Task", bound=ReportedTask)


def existing_manifest(shards_url: str, digest: str) -> Manifest | None:
    """Return the manifest of complete shards written from this source; None if there are none.

    Args:
        shards_url: the folder.
        digest: digest of the source.
    """
    if not storage.exists(storage.join(shards_url, MANIFEST_NAME)):
        return None
    try:
        manifest = read_manifest(shards_url)
    except storage.MissingFileError:
        raise
    except storage.StorageError as error:
        logger.warning("writing the shards again: %s", error)
        return None
    actual = storage.list_files(shards_url, (".parquet",))
    expected = sorted(storage.join(shards_url, file.name) for file in manifest.files)
    return manifest if manifest.source_digest == digest and actual == expected else None


def keep_shards(manifest: Manifest, shards_url: str) -> Manifest:
    """Say that shards are up to date; add the contents of images if their manifest lacks them."""
    complete = complete_manifest(manifest, shards_url)
    if complete is manifest:
        logger.info("%s is up to date; nothing to write", shards_url)
    else:
        write_manifest(shards_url, complete)
        logger.info("%s: added the classes of each image to the manifest", shards_url)
    return complete


def begin_writing(shards_url: str, digest: str) -> str:
    """Mark the folder as incomplete; return where the reports of shards are stored.

    Args:
        shards_url: the folder.
        digest: digest of the source; reports of another source are deleted.
    """
    # Without its manifest the folder counts as incomplete until the new one is written.
    storage.delete(storage.join(shards_url, MANIFEST_NAME))
    parts_url = storage.join(shards_url, _PARTS, digest[:16])
    for url in storage.list_files(storage.join(shards_url, _PARTS)):
        # Reports of another source, whose shards have the same names.
        if not url.startswith(parts_url):
            storage.delete(url)
    return parts_url


def write_or_reuse(task: Task, write: Callable[[Task], ShardReport]) -> ShardReport:
    """Write a shard and store its report; return the stored report of a finished shard."""
    if storage.exists(task.report_url):
        return _REPORT.validate_json(storage.read_bytes(task.report_url))
    report = write(task)
    storage.write_bytes(task.report_url, _REPORT.dump_json(report))
    return report


def write_quarantine(shards_url: str, lines: bytes) -> None:
    """Write quarantine.jsonl."""
    storage.write_bytes(storage.join(shards_url, QUARANTINE_NAME), lines)


def finish_writing(shards_url: str, manifest: Manifest) -> None:
    """Delete shards that are not in the manifest, write it, and delete the reports."""
    current = {storage.join(shards_url, file.name) for file in manifest.files}
    for url in storage.list_files(shards_url, (".parquet",)):
        if url not in current:
            storage.delete(url)
    write_manifest(shards_url, manifest)
    storage.delete(storage.join(shards_url, _PARTS))
    logger.info("%s: %s", shards_url, manifest.summary())
