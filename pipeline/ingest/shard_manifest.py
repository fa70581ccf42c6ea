"""Sum up the reports of all shards in a manifest."""

import logging
from collections import Counter
from collections.abc import Sequence

from pipeline.ingest.listing import Listing
from pipeline.ingest.rejects import Reject
from pipeline.ingest.shard_task import ShardReport
from pipeline.shards.decoding import Decoding
from pipeline.shards.manifest import SCHEMA_VERSION, Manifest

logger = logging.getLogger(__name__)

_COUNTS = (
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
    "images_turned",
    "orientation_unclear",
    "renumbered",
    "other_classes",
)


def build_manifest(
    listing: Listing,
    digest: str,
    reports: Sequence[ShardReport],
    rejects: Sequence[Reject],
    decoding: Decoding,
) -> Manifest:
    """Return the manifest of a listing's shards.

    Args:
        listing: the dataset.
        digest: digest of its source.
        reports: reports of all shards, in order.
        rejects: what was left out or corrected, in the listing and in the shards.
        decoding: settings of the images.
    """
    counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
    counts["images_listed"] = listing.images_listed
    counts["annotations_listed"] = listing.annotations_listed
    counts["renumbered"] = listing.renumbered
    counts["other_classes"] = listing.other_classes
    for reject in listing.rejects:
        counts[f"{reject.record}s_quarantined"] += 1
    for report in reports:
        counts.update(report.counts)
    return Manifest(
        version=SCHEMA_VERSION,
        categories=listing.categories,
        files=tuple(report.file for report in reports if report.file is not None),
        source_digest=digest,
        counts=dict(counts),
        reasons=dict(Counter(reject.reason for reject in rejects if not reject.corrected)),
        protocol=listing.protocol,
        keypoints=listing.keypoints,
        corrected=dict(Counter(reject.reason for reject in rejects if reject.corrected)),
        decoding=decoding,
    )


def warn_about_orientation(manifest: Manifest, shards_url: str) -> None:
    """Log which setting the other images speak for, where an image's size does not decide."""
    unclear, turned = (manifest.counts[key] for key in ("orientation_unclear", "images_turned"))
    if unclear and turned:
        logger.warning(
            "%s: the annotations of %d images refer to the image turned as its EXIF data says, so "
            "those of %d images whose size fits both ways probably do too, but these are used as "
            "stored; set data.exif_orientation=apply",
            shards_url,
            turned,
            unclear,
        )
