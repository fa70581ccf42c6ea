"""Write new shards from existing ones: several merged, or one with other sizes of files and groups.

Rows keep their order: they were shuffled when they were first written. Images are not decoded, so
a damaged one stays damaged. An image whose id another one has gets a new id; its own is kept in
``source_image_id``.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pipeline import storage
from pipeline.ingest.merge_plan import Source, cut_into_shards, row_ranges
from pipeline.ingest.merge_task import MergeTask, write_merged_shard
from pipeline.ingest.merged_classes import MergedClasses, merge_classes
from pipeline.ingest.parallel_tasks import run_tasks
from pipeline.ingest.quarantine import QuarantineError
from pipeline.ingest.shard_folder import (
    begin_writing,
    existing_manifest,
    finish_writing,
    keep_shards,
    write_or_reuse,
    write_quarantine,
)
from pipeline.ingest.shard_task import ShardReport
from pipeline.shards.class_match import list_names
from pipeline.shards.decoding import DEFAULT_DECODING
from pipeline.shards.keypoints import KeypointSet, merge_keypoint_sets
from pipeline.shards.manifest import (
    QUARANTINE_NAME,
    SCHEMA_VERSION,
    Manifest,
    read_manifest,
)

logger = logging.getLogger(__name__)

_RECOUNTED = (
    *("images", "images_without_objects", "images_turned", "objects", "crowd", "without_mask"),
    "with_keypoints",
)
"""Counts that are taken from the new rows; the others are sums over the merged datasets."""


def merge_shards(
    urls: Sequence[str],
    shards_url: str,
    rows_per_shard: int,
    rows_per_group: int,
    classes: Sequence[str] = (),
) -> Manifest:
    """Write new shards from existing ones, or keep those that were written from the same ones.

    Classes are matched by name. If Ray is running, its tasks write several shards at a time.

    Args:
        urls: folders of existing shards, in the order of their rows in the new ones.
        shards_url: folder of the new shards.
        rows_per_shard: images per file.
        rows_per_group: images per row group, the unit of reading.
        classes: names of the classes to keep, in order; default: all.

    Raises:
        StorageError: a folder cannot be read or written, is given twice, or is the output.
        ConfigError: no dataset has one of ``classes``.
    """
    shards_url = storage.absolute(shards_url)
    sources = [Source(url, read_manifest(url)) for url in map(storage.absolute, urls)]
    _check_folders(sources, shards_url)
    merged = merge_classes([source.manifest.categories for source in sources], classes)
    _warn_about_unlabeled_classes(sources, merged)
    digest = _digest(sources, merged, (rows_per_shard, rows_per_group))
    existing = existing_manifest(shards_url, digest)
    if existing is not None:
        return keep_shards(existing, shards_url)
    keypoints = _merge_keypoints(sources, merged)
    ranges = list(row_ranges(sources, merged))
    parts_url = begin_writing(shards_url, digest)
    tasks = [
        MergeTask(
            name=f"shard-{number:05d}.parquet",
            shards_url=shards_url,
            sources=shard_sources,
            rows_per_group=rows_per_group,
            report_url=storage.join(parts_url, f"shard-{number:05d}.parquet.json"),
            keypoint_count=0 if keypoints is None else len(keypoints.names),
        )
        for number, shard_sources in enumerate(cut_into_shards(ranges, rows_per_shard))
    ]
    rows = [task.rows for task in tasks]
    reports = dict(run_tasks(_write_or_reuse, tasks, rows, "writing shards"))
    manifest = _manifest(sources, merged, keypoints, digest, [reports[n] for n in range(len(rows))])
    if not manifest.counts["objects"] and any(s.manifest.counts.get("objects") for s in sources):
        raise QuarantineError(f"{shards_url}: no object is of the classes {list_names(classes)}")
    write_quarantine(shards_url, b"".join(_read_quarantine(source) for source in sources))
    finish_writing(shards_url, manifest)
    return manifest


def _write_or_reuse(task: MergeTask) -> ShardReport:
    return write_or_reuse(task, write_merged_shard)


def _check_folders(sources: Sequence[Source], shards_url: str) -> None:
    # With the store: buckets of two clouds may have the same name.
    places = [storage.filesystem(source.url) for source in sources]
    if storage.filesystem(shards_url) in places:
        raise storage.StorageError(
            f"{shards_url} is to be read and written; set another output, or data.train_shards and "
            "data.val_shards, for the new shards"
        )
    for index, source in enumerate(sources):
        for number, other in enumerate(sources[:index]):
            same_content = source.manifest.digest == other.manifest.digest
            if places[index] == places[number] or same_content:
                raise storage.StorageError(
                    f"{other.url} and {source.url} hold the same images; give each dataset once"
                )


def _warn_about_unlabeled_classes(sources: Sequence[Source], merged: MergedClasses) -> None:
    for source, labels in zip(sources, merged.labels, strict=True):
        missing = [
            category.name
            for label, category in enumerate(merged.categories, 1)
            if label not in labels
        ]
        if missing:
            logger.warning(
                "%s has no annotations of the classes %s: if its images show such objects, they "
                "are learned as background",
                source.url,
                list_names(missing),
            )


def _digest(sources: Sequence[Source], merged: MergedClasses, layout: tuple[int, int]) -> str:
    """Return the SHA-256 (hex) of all that the new shards depend on."""
    content = [source.manifest.digest for source in sources]
    categories = [tuple(category) for category in merged.categories]
    text = json.dumps(["merged", SCHEMA_VERSION, content, categories, merged.labels, layout])
    return hashlib.sha256(text.encode()).hexdigest()


def _merge_keypoints(sources: Sequence[Source], merged: MergedClasses) -> KeypointSet | None:
    """Return the keypoints in the new category ids; None if there are none, or different ones."""
    renumbered = []
    for source, ids in zip(sources, merged.category_ids, strict=True):
        own = source.manifest.keypoints
        kept = () if own is None else tuple(ids[each] for each in own.category_ids if each in ids)
        renumbered.append(replace(own, category_ids=kept) if own is not None and kept else None)
    return merge_keypoint_sets(renumbered)


def _manifest(
    sources: Sequence[Source],
    merged: MergedClasses,
    keypoints: KeypointSet | None,
    digest: str,
    reports: Sequence[ShardReport],
) -> Manifest:
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    corrected: Counter[str] = Counter()
    for source in sources:
        former = source.manifest
        counts.update({k: v for k, v in former.counts.items() if k not in _RECOUNTED})
        reasons.update(former.reasons)
        corrected.update(former.corrected)
    counts.update(dict.fromkeys((*_RECOUNTED, "other_classes"), 0))
    for report in reports:
        counts.update(report.counts)
    decodings = {source.manifest.decoding for source in sources}
    return Manifest(
        version=SCHEMA_VERSION,
        categories=merged.categories,
        files=tuple(report.file for report in reports if report.file is not None),
        source_digest=digest,
        counts=dict(counts),
        reasons=dict(reasons),
        # Mixed VOC years use the later protocol, which is also the last in alphabetical order.
        protocol=max(source.manifest.protocol for source in sources),
        keypoints=keypoints,
        corrected=dict(corrected),
        # How an image is decoded is in its row.
        decoding=decodings.pop() if len(decodings) == 1 else DEFAULT_DECODING,
    )


def _read_quarantine(source: Source) -> bytes:
    try:
        return storage.read_bytes(storage.join(source.url, QUARANTINE_NAME))
    except storage.MissingFileError:
        return b""
