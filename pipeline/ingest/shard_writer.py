"""Shards of a `Listing`: Parquet files, quarantine.jsonl and a manifest.

Images are shuffled once, with a fixed seed, so that neighbors in a shard are unrelated. Each row
group holds images of similar aspect ratio, as training batches do. The manifest is written last;
until then ``parts/`` holds a report of each finished shard, so that a killed job resumes there.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
from pydantic import TypeAdapter

from pipeline import storage
from pipeline.ingest.listing import Listing
from pipeline.ingest.parallel_tasks import run_tasks
from pipeline.ingest.quarantine import check_quarantine
from pipeline.ingest.shard_manifest import build_manifest, warn_about_orientation
from pipeline.ingest.shard_task import ShardReport, ShardTask, write_shard
from pipeline.ingest.source_digest import source_digest
from pipeline.shards.decoding import DEFAULT_DECODING, Decoding
from pipeline.shards.image_contents import complete_manifest
from pipeline.shards.manifest import (
    MANIFEST_NAME,
    QUARANTINE_NAME,
    Manifest,
    read_manifest,
    write_manifest,
)

logger = logging.getLogger(__name__)

_SHUFFLE_SEED = 20170322
_PARTS = "parts"
_REPORT: TypeAdapter[ShardReport] = TypeAdapter(ShardReport)


def write_shards(
    listing: Listing,
    shards_url: str,
    rows_per_shard: int,
    rows_per_group: int,
    decoding: Decoding = DEFAULT_DECODING,
    max_quarantined: float = 1.0,
) -> Manifest:
    """Write the shards of a listing, or keep existing ones that were written from the same source.

    If Ray is running, its tasks write several shards at a time; otherwise this process writes them
    one by one. Memory holds the listing once, and one or two row groups of images per running task.

    Args:
        listing: images and annotations.
        shards_url: folder for shards, ``manifest.json`` and ``quarantine.jsonl``.
        rows_per_shard: images per file.
        rows_per_group: images per row group, the unit of reading.
        decoding: settings of the dataset's images.
        max_quarantined: share of the images, and of the annotations, that may be left out.

    Raises:
        StorageError: a location cannot be read or written.
        QuarantineError: more is left out than allowed, or nothing is left.
    """
    digest = source_digest(listing, (_SHUFFLE_SEED, rows_per_shard, rows_per_group), decoding)
    existing = _existing_manifest(shards_url, digest)
    if existing is not None:
        check_quarantine(listing, existing, shards_url, max_quarantined)
        return _add_missing_contents(existing, shards_url)
    # Without its manifest the folder counts as incomplete until the new one is written.
    storage.delete(storage.join(shards_url, MANIFEST_NAME))
    parts_url = storage.join(shards_url, _PARTS, digest[:16])
    for url in storage.list_files(storage.join(shards_url, _PARTS)):
        # Reports of another source, whose shards have the same names.
        if not url.startswith(parts_url):
            storage.delete(url)
    tasks = list(
        _plan_tasks(listing, shards_url, parts_url, rows_per_shard, rows_per_group, decoding)
    )
    reports = _run_tasks(tasks)
    rejects = [*listing.rejects, *(reject for report in reports for reject in report.rejects)]
    manifest = build_manifest(listing, digest, reports, rejects, decoding)
    lines = (json.dumps(asdict(reject)) + "\n" for reject in rejects)
    storage.write_bytes(storage.join(shards_url, QUARANTINE_NAME), "".join(lines).encode())
    check_quarantine(listing, manifest, shards_url, max_quarantined, rejects)
    _delete_stale_shards(shards_url, manifest)
    write_manifest(shards_url, manifest)
    storage.delete(storage.join(shards_url, _PARTS))
    logger.info("%s: %s", shards_url, manifest.summary())
    warn_about_orientation(manifest, shards_url)
    return manifest


def _add_missing_contents(manifest: Manifest, shards_url: str) -> Manifest:
    """Return a manifest that lists the classes of its images, and write it if it did not."""
    complete = complete_manifest(manifest, shards_url)
    if complete is manifest:
        logger.info("%s is up to date; nothing to write", shards_url)
    else:
        write_manifest(shards_url, complete)
        logger.info("%s: added the classes of each image to the manifest", shards_url)
    return complete


def _existing_manifest(shards_url: str, digest: str) -> Manifest | None:
    """Return the manifest of complete shards written from this source; None if there are none."""
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


def _plan_tasks(
    listing: Listing,
    shards_url: str,
    parts_url: str,
    rows_per_shard: int,
    rows_per_group: int,
    decoding: Decoding,
) -> Iterator[ShardTask]:
    """Shuffle the images and yield the task of each shard."""
    labels = {category.id: label for label, category in enumerate(listing.categories, 1)}
    keypoint_count = 0 if listing.keypoints is None else len(listing.keypoints.names)
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(listing.images)).tolist()
    for number, first in enumerate(range(0, len(order), rows_per_shard)):
        name = f"shard-{number:05d}.parquet"
        yield ShardTask(
            name=name,
            shards_url=shards_url,
            images=tuple(listing.images[i] for i in order[first : first + rows_per_shard]),
            labels=labels,
            rows_per_group=rows_per_group,
            report_url=storage.join(parts_url, f"{name}.json"),
            keypoint_count=keypoint_count,
            decoding=decoding,
        )


def _run_tasks(tasks: Sequence[ShardTask]) -> list[ShardReport]:
    """Return the tasks' reports in order, running only those without a stored report."""
    image_counts = [len(task.images) for task in tasks]
    reports = dict(run_tasks(_write_or_reuse, tasks, image_counts, "writing shards"))
    return [reports[number] for number in range(len(tasks))]


def _write_or_reuse(task: ShardTask) -> ShardReport:
    if storage.exists(task.report_url):
        return _REPORT.validate_json(storage.read_bytes(task.report_url))
    report = write_shard(task)
    storage.write_bytes(task.report_url, _REPORT.dump_json(report))
    return report


def _delete_stale_shards(shards_url: str, manifest: Manifest) -> None:
    """Delete shards that an earlier run wrote and this one did not."""
    current = {storage.join(shards_url, file.name) for file in manifest.files}
    for url in storage.list_files(shards_url, (".parquet",)):
        if url not in current:
            storage.delete(url)
