"""Shards of a `Listing`: Parquet files, quarantine.jsonl and a manifest.

Images are shuffled once, with a fixed seed, so that neighbors in a shard are unrelated. Each row
group holds images of similar aspect ratio, as training batches do. `shard_folder` lets a killed job
resume after its last finished shard.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np

from pipeline import storage
from pipeline.config.data_tiles import DataTilesConfig
from pipeline.ingest.listing import Listing
from pipeline.ingest.parallel_tasks import run_tasks
from pipeline.ingest.quarantine import check_quarantine
from pipeline.ingest.shard_folder import (
    begin_writing,
    existing_manifest,
    finish_writing,
    keep_shards,
    write_or_reuse,
    write_quarantine,
)
from pipeline.ingest.shard_manifest import build_manifest, warn_about_orientation
from pipeline.ingest.shard_task import ShardReport, ShardTask, write_shard
from pipeline.ingest.source_digest import source_digest
from pipeline.ingest.tiles import expected_rows
from pipeline.shards.decoding import DEFAULT_DECODING, Decoding
from pipeline.shards.manifest import Manifest

_SHUFFLE_SEED = 20170322


def write_shards(
    listing: Listing,
    shards_url: str,
    rows_per_shard: int,
    rows_per_group: int,
    decoding: Decoding = DEFAULT_DECODING,
    max_quarantined: float = 1.0,
    tiles: DataTilesConfig | None = None,
) -> Manifest:
    """Write the shards of a listing, or keep existing ones that were written from the same source.

    If Ray is running, its tasks write several shards at a time; otherwise this process writes them
    one by one. Memory holds the listing once, and one or two row groups of images per running task.

    Args:
        listing: images and annotations.
        shards_url: folder for shards, ``manifest.json`` and ``quarantine.jsonl``.
        rows_per_shard: images, or tiles, per file; all tiles of an image are in one file.
        rows_per_group: images per row group, the unit of reading.
        decoding: settings of the dataset's images.
        max_quarantined: share of the images, and of the annotations, that may be left out.
        tiles: how images are cut into tiles; None keeps them whole.

    Raises:
        StorageError: a location cannot be read or written.
        QuarantineError: more is left out than allowed, or nothing is left.
    """
    shards_url = storage.absolute(shards_url)
    layout = (_SHUFFLE_SEED, rows_per_shard, rows_per_group)
    digest = source_digest(listing, layout, decoding, tiles)
    existing = existing_manifest(shards_url, digest)
    if existing is not None:
        check_quarantine(listing, existing, shards_url, max_quarantined)
        return keep_shards(existing, shards_url)
    parts_url = begin_writing(shards_url, digest)
    tasks = list(
        _plan_tasks(listing, shards_url, parts_url, rows_per_shard, rows_per_group, decoding, tiles)
    )
    reports = _run_tasks(tasks)
    rejects = [*listing.rejects, *(reject for report in reports for reject in report.rejects)]
    manifest = build_manifest(listing, digest, reports, rejects, decoding)
    lines = (json.dumps(asdict(reject)) + "\n" for reject in rejects)
    write_quarantine(shards_url, "".join(lines).encode())
    check_quarantine(listing, manifest, shards_url, max_quarantined, rejects)
    finish_writing(shards_url, manifest)
    warn_about_orientation(manifest, shards_url)
    return manifest


def _plan_tasks(
    listing: Listing,
    shards_url: str,
    parts_url: str,
    rows_per_shard: int,
    rows_per_group: int,
    decoding: Decoding,
    tiles: DataTilesConfig | None,
) -> Iterator[ShardTask]:
    """Shuffle the images and yield the task of each shard."""
    labels = {category.id: label for label, category in enumerate(listing.categories, 1)}
    keypoint_count = 0 if listing.keypoints is None else len(listing.keypoints.names)
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(listing.images)).tolist()
    rows = [expected_rows(listing.images[i].size, tiles) for i in order]
    for number, part in enumerate(_split(order, rows, rows_per_shard)):
        name = f"shard-{number:05d}.parquet"
        yield ShardTask(
            name=name,
            shards_url=shards_url,
            images=tuple(listing.images[i] for i in part),
            labels=labels,
            rows_per_group=rows_per_group,
            report_url=storage.join(parts_url, f"{name}.json"),
            keypoint_count=keypoint_count,
            decoding=decoding,
            tiles=tiles,
            numbers={listing.images[i].image_id: i for i in part} if tiles else {},
        )


def _split(order: Sequence[int], rows: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Yield parts of an order that have up to ``limit`` rows; one image may have more."""
    part: list[int] = []
    total = 0
    for index, count in zip(order, rows, strict=True):
        if part and total + count > limit:
            yield part
            part, total = [], 0
        part.append(index)
        total += count
    if part:
        yield part


def _run_tasks(tasks: Sequence[ShardTask]) -> list[ShardReport]:
    """Return the tasks' reports in order, running only those without a stored report."""
    image_counts = [len(task.images) for task in tasks]
    reports = dict(run_tasks(_write_or_reuse, tasks, image_counts, "writing shards"))
    return [reports[number] for number in range(len(tasks))]


def _write_or_reuse(task: ShardTask) -> ShardReport:
    return write_or_reuse(task, write_shard)
