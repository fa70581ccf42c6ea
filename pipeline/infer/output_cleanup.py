"""Bring the output folder into the state that a plan starts from.

Readers of the folder read every Parquet file in it. No row must be there twice, and none of an
image that is gone. Before anything is predicted, outputs that no chunk owns are deleted, and rows
of images that are gone are taken out of the outputs of their chunks.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import compress

from pipeline import storage
from pipeline.infer.detection_files import (
    is_detections_file,
    read_detection_rows,
    write_detection_rows,
)
from pipeline.infer.ledger import (
    READ_THREADS,
    LedgerEntry,
    changed_meanwhile,
    entry_url,
    output_url,
    read_entry,
    write_entry,
)
from pipeline.infer.plan import KeyOf, Plan, output_sizes

logger = logging.getLogger(__name__)


def clean_output(
    plan: Plan, predictions_url: str, bit_depth: int | None, key_of: KeyOf
) -> list[LedgerEntry]:
    """Delete and shrink outputs as a plan says.

    Args:
        plan: of this job.
        predictions_url: folder of the output files.
        bit_depth: significant bits of images with more than 8; None follows the files.
        key_of: the key of a chunk in this job.

    Returns:
        The entries of all finished chunks, without their files.

    Raises:
        StorageError: the folder cannot be read or written.
    """
    _warn_about_entries(plan, predictions_url)
    _delete([output_url(predictions_url, name) for name in plan.dropped])
    _delete([entry_url(predictions_url, name) for name in (*plan.dropped, *plan.damaged)])
    if plan.dropped:
        logger.warning(
            "removed %d outputs whose input no longer exists: %s",
            len(plan.dropped),
            ", ".join(plan.dropped[:5]),
        )
    _delete_unowned(plan, predictions_url)
    with ThreadPoolExecutor(READ_THREADS, "shrink") as pool:
        shrunk = list(
            pool.map(
                lambda name: _shrink(predictions_url, name, plan.shrunk[name], bit_depth, key_of),
                plan.shrunk,
            )
        )
    if shrunk:
        logger.info("took the rows of deleted or replaced images out of %d outputs", len(shrunk))
    return [*plan.finished, *shrunk]


def _warn_about_entries(plan: Plan, predictions_url: str) -> None:
    if plan.outdated:
        logger.warning(
            "%d outputs in %s were written by an earlier version, whose rows lack the columns "
            "model, model_digest and input_version; their images are predicted on again",
            plan.outdated,
            predictions_url,
        )
    if plan.damaged:
        logger.warning(
            "%d entries of the ledger are damaged, or of another version; their images are "
            "predicted on again: %s",
            len(plan.damaged),
            ", ".join(entry_url(predictions_url, name) for name in plan.damaged[:5]),
        )


def _delete_unowned(plan: Plan, predictions_url: str) -> None:
    """Delete outputs without an entry, as a job leaves one that was killed after writing it."""
    unowned = sorted(set(output_sizes(predictions_url)) - plan.owned)
    urls = [output_url(predictions_url, name) for name in unowned]
    with ThreadPoolExecutor(READ_THREADS, "unowned") as pool:
        are_ours = list(pool.map(is_detections_file, urls))
    ours = list(compress(urls, are_ours))
    _delete(ours)
    if ours:
        logger.warning(
            "removed %d outputs that no entry of the ledger owns; their images are predicted on "
            "again: %s",
            len(ours),
            ", ".join(ours[:5]),
        )
    if others := [url for url, is_ours in zip(urls, are_ours, strict=True) if not is_ours]:
        logger.warning(
            "%d Parquet files in the output folder are not of this job, and stay: %s",
            len(others),
            ", ".join(others[:5]),
        )


def _shrink(
    predictions_url: str,
    name: str,
    left: Sequence[bool],
    bit_depth: int | None,
    key_of: KeyOf,
) -> LedgerEntry:
    """Rewrite an output with the rows of the images that are left, then its entry."""
    url, entry = output_url(predictions_url, name), read_entry(predictions_url, name)
    if entry is None or len(entry.files) != len(left):
        raise changed_meanwhile(entry_url(predictions_url, name))
    chunk = entry.chunk("", bit_depth).only(left)
    ids = set(chunk.image_ids)
    rows = [row for row in read_detection_rows(url) if row.image_id in ids]
    if len(rows) != chunk.images:
        raise storage.StorageError(
            f"{url} has {len(rows)} rows of {chunk.images} images; delete it, and the job writes "
            "it again"
        )
    smaller = replace(
        entry,
        key=key_of(chunk),
        images=len(rows),
        failed=sum(row.error is not None for row in rows),
        objects=sum(len(row.scores) for row in rows),
        size=write_detection_rows(url, rows),
        files=chunk.files,
        versions=chunk.versions,
        image_ids=chunk.image_ids,
        source_ids=chunk.source_ids,
    )
    write_entry(predictions_url, smaller)
    return smaller.counts()


def _delete(urls: Iterable[str]) -> None:
    with ThreadPoolExecutor(READ_THREADS, "delete") as pool:
        list(pool.map(storage.delete, urls))
