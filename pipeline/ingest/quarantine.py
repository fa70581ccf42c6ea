"""Limit how much of a dataset may be left out before the job fails."""

from pipeline import storage
from pipeline.ingest.listing import Listing
from pipeline.shards.manifest import QUARANTINE_NAME, Manifest

_TOP_REASONS = 5

_ADVICE = {
    "unknown category": "name the classes in data.classes (voc)",
    "image size differs from annotations": "try data.exif_orientation",
    "missing image file": "check the folder of images",
}


class QuarantineError(storage.StorageError):
    """Too much of a dataset is unusable."""


def check_quarantine(
    listing: Listing, manifest: Manifest, shards_url: str, max_quarantined: float
) -> None:
    """Check that enough of a dataset is usable.

    Args:
        listing: the dataset.
        manifest: counts of what is kept and left out.
        shards_url: folder of quarantine.jsonl, for the error message.
        max_quarantined: share of the images, and of the annotations, that may be left out.

    Raises:
        QuarantineError: more is left out, no image is valid, or objects are listed but none is.
    """
    counts = manifest.counts
    problems = []
    if not counts["images"]:
        problems.append(f"none of the {counts['images_listed']} images is valid")
    elif counts["annotations_listed"] and not counts["objects"]:
        problems.append(f"none of the {counts['annotations_listed']} annotations is an object")
    else:
        for record in ("images", "annotations"):
            left_out, listed = counts[f"{record}_quarantined"], counts[f"{record}_listed"]
            if left_out > max_quarantined * listed:
                problems.append(f"{left_out} of {listed} {record} left out")
    if not problems:
        return
    ranked = sorted(manifest.reasons.items(), key=lambda item: (-item[1], item[0]))[:_TOP_REASONS]
    reasons = ", ".join(f"{reason} ({count})" for reason, count in ranked)
    advice = [_ADVICE[reason] for reason, _ in ranked if reason in _ADVICE]
    if counts["images"]:
        advice.append(f"allow a larger share with data.max_quarantined, now {max_quarantined:g}")
    raise QuarantineError(
        f"{listing.name}: {' and '.join(problems)}: {reasons or 'no reasons'}. "
        f"{storage.join(shards_url, QUARANTINE_NAME)} lists each. Correct the dataset, or "
        f"{', or '.join(advice) or 'use another'}"
    )
