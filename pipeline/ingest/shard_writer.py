"""Annotations and images in, Parquet shards with a manifest out.

Images are shuffled once, with a fixed seed, so that neighbours in a shard have nothing in common,
and each row group holds images of one orientation (training batches them so). The manifest comes
last; until then, finished shards are remembered in ``parts/``: a killed job goes on where it was.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

import numpy as np
import ray
from pydantic import TypeAdapter

from pipeline import storage
from pipeline.ingest.listing import Listing
from pipeline.ingest.shard_task import ShardReport, ShardTask, write_shard
from pipeline.ingest.validate import Reject
from pipeline.shards.manifest import (
    MANIFEST_NAME,
    QUARANTINE_NAME,
    SCHEMA_VERSION,
    Manifest,
    read_manifest,
    write_manifest,
)

logger = logging.getLogger(__name__)

_SHUFFLE_SEED = 20170322
_PARTS = "parts"
_REPORT: TypeAdapter[ShardReport] = TypeAdapter(ShardReport)
_COUNTED = (
    "images_listed",
    "images",
    "images_without_objects",
    "images_quarantined",
    "annotations_listed",
    "objects",
    "crowd",
    "annotations_quarantined",
    "clipped",
    "without_mask",
    "with_keypoints",
    "points_outside",
    "keypoints_unnamed",
)


def write_shards(
    listing: Listing, shards_url: str, rows_per_shard: int, rows_per_group: int
) -> Manifest:
    """Write the shards of what a data set lists; those of the same sources are left as they stand.

    With Ray running, shards are written by its tasks, a few at a time; otherwise one by one here.
    The listing is held in memory once, the images of each running task by row group.

    Args:
        listing: images and annotations.
        shards_url: folder for shards, ``manifest.json`` and ``quarantine.jsonl``.
        rows_per_shard: images per file.
        rows_per_group: images per row group, the unit of reading.

    Raises:
        StorageError: a location cannot be read or written, or no image at all is good.
    """
    source = _source_digest(listing, rows_per_shard, rows_per_group)
    standing = _standing_manifest(shards_url, source)
    if standing is not None:
        logger.info("%s stands: %s", shards_url, standing.summary())
        return standing
    # From here on the folder is not complete, whatever stood there before.
    storage.delete(storage.join(shards_url, MANIFEST_NAME))
    parts_url = storage.join(shards_url, _PARTS, source[:16])
    for url in storage.list_files(storage.join(shards_url, _PARTS)):
        # Of another source, whose shards bore the same names.
        if not url.startswith(parts_url):
            storage.delete(url)
    tasks = list(_plan_tasks(listing, shards_url, parts_url, rows_per_shard, rows_per_group))
    reports = _run(tasks)
    manifest = _gather(listing, source, reports)
    if not manifest.files:
        raise storage.StorageError(
            f"{listing.name}: none of {len(listing.images)} images below "
            f"{', '.join(_image_folders(listing)) or 'it'} is good ({manifest.reasons}); is the "
            "folder right?"
        )
    rejects = [*listing.rejects, *(reject for report in reports for reject in report.rejects)]
    lines = (json.dumps(asdict(reject)) + "\n" for reject in rejects)
    storage.write_bytes(storage.join(shards_url, QUARANTINE_NAME), "".join(lines).encode())
    _delete_strangers(shards_url, manifest)
    write_manifest(shards_url, manifest)
    storage.delete(storage.join(shards_url, _PARTS))
    logger.info("%s: %s", shards_url, manifest.summary())
    return manifest


def _source_digest(listing: Listing, rows_per_shard: int, rows_per_group: int) -> str:
    """Of the annotations, the images' names and sizes in bytes, and how they are laid out."""
    sizes = {
        (folder, url[len(folder) :].strip("/")): size
        for folder in _image_folders(listing)
        for url, size in storage.file_sizes(folder).items()
    }
    listed = [
        (image.file_name, sizes.get((image.images_url, image.file_name)))
        for image in listing.images
    ]
    listed.sort(key=lambda pair: (pair[0], -1 if pair[1] is None else pair[1]))
    # Shards of version 1 lack nothing where there are no keypoints: those that stand need not go.
    version = 1 if listing.keypoints is None else SCHEMA_VERSION
    layout = [version, _SHUFFLE_SEED, rows_per_shard, rows_per_group]
    digest = hashlib.sha256(listing.fingerprint)
    # COCO's protocol goes without saying: shards from before there were others stand.
    protocol = [] if listing.protocol == "coco" else [listing.protocol]
    digest.update(json.dumps([layout, listed, *protocol]).encode())
    return digest.hexdigest()


def _image_folders(listing: Listing) -> list[str]:
    return list(dict.fromkeys(image.images_url for image in listing.images))


def _standing_manifest(shards_url: str, source: str) -> Manifest | None:
    if not storage.exists(storage.join(shards_url, MANIFEST_NAME)):
        return None
    try:
        manifest = read_manifest(shards_url)
    except storage.MissingFileError:
        raise
    except storage.StorageError as error:
        logger.warning("writing the shards again: %s", error)
        return None
    there = storage.list_files(shards_url, (".parquet",))
    wanted = [storage.join(shards_url, file.name) for file in manifest.files]
    return manifest if manifest.source_digest == source and there == sorted(wanted) else None


def _plan_tasks(
    listing: Listing,
    shards_url: str,
    parts_url: str,
    rows_per_shard: int,
    rows_per_group: int,
) -> Iterator[ShardTask]:
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
        )


def _run(tasks: Sequence[ShardTask]) -> list[ShardReport]:
    """The tasks' reports in order; tasks whose report stands are not run again."""
    if not ray.is_initialized():
        return [_write_unless_reported(task) for task in tasks]
    remote = ray.remote(_write_unless_reported)
    at_once = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: dict[ray.ObjectRef, int] = {}
    reports: dict[int, ShardReport] = {}
    for number, task in enumerate(tasks):
        # Bounded: a waiting task holds its share of the annotations.
        if len(pending) >= at_once:
            reports |= _next_finished(pending)
        pending[remote.remote(task)] = number
    while pending:
        reports |= _next_finished(pending)
    return [reports[number] for number in range(len(tasks))]


def _next_finished(pending: dict[ray.ObjectRef, int]) -> dict[int, ShardReport]:
    [finished], _ = ray.wait(list(pending), num_returns=1)
    return {pending.pop(finished): ray.get(finished)}


def _write_unless_reported(task: ShardTask) -> ShardReport:
    if storage.exists(task.report_url):
        return _REPORT.validate_json(storage.read_bytes(task.report_url))
    report = write_shard(task)
    storage.write_bytes(task.report_url, _REPORT.dump_json(report))
    return report


def _gather(listing: Listing, source: str, reports: Iterable[ShardReport]) -> Manifest:
    counts: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))
    counts["images_listed"] = listing.images_listed
    counts["annotations_listed"] = listing.annotations_listed
    of_images = sum(reject.record == "image" for reject in listing.rejects)
    counts["images_quarantined"] += of_images
    counts["annotations_quarantined"] += len(listing.rejects) - of_images
    rejects = list(listing.rejects)
    files = []
    for report in reports:
        counts.update(report.counts)
        rejects += report.rejects
        files += [report.file] if report.file is not None else []
    return Manifest(
        version=SCHEMA_VERSION,
        categories=listing.categories,
        files=tuple(files),
        source_digest=source,
        counts=dict(counts),
        reasons=_reasons(rejects),
        protocol=listing.protocol,
        keypoints=listing.keypoints,
    )


def _reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    return dict(Counter(reject.reason for reject in rejects if not reject.mended))


def _delete_strangers(shards_url: str, manifest: Manifest) -> None:
    """Shards of an earlier writing that this one has no file for."""
    wanted = {storage.join(shards_url, file.name) for file in manifest.files}
    for url in storage.list_files(shards_url, (".parquet",)):
        if url not in wanted:
            storage.delete(url)
