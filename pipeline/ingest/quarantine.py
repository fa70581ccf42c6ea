"""Limit how much of a dataset may be left out before the job fails."""

from collections.abc import Sequence

from pipeline import storage
from pipeline.ingest.listing import Listing
from pipeline.ingest.rejects import IMAGE_QUARANTINED, Reject
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
    listing: Listing,
    manifest: Manifest,
    shards_url: str,
    max_quarantined: float,
    rejects: Sequence[Reject] = (),
) -> None:
    """Check that enough of a dataset is usable.

    Args:
        listing: the dataset.
        manifest: counts of what is kept and left out.
        shards_url: folder of quarantine.jsonl, for the error message.
        max_quarantined: share of the images, and of the annotations, that may be left out.
        rejects: what is left out; the error message shows one of the most common reason.

    Raises:
        QuarantineError: more is left out, no image is valid, or objects are listed but none is.
    """
    counts = manifest.counts
    other_classes = counts.get("other_classes", 0)
    listed = {
        "images": counts["images_listed"],
        "annotations": counts["annotations_listed"] - other_classes,
    }
    too_many = [
        f"{counts[f'{record}_quarantined']} of {number} {record} left out"
        for record, number in listed.items()
        if counts[f"{record}_quarantined"] > max_quarantined * number
    ]
    if not counts["images"]:
        problem = f"none of the {counts['images_listed']} images is valid"
    elif counts["annotations_listed"] and not counts["objects"]:
        problem = f"none of the {counts['annotations_listed']} annotations is an object"
        problem += " of the classes in data.classes" if other_classes else ""
    elif too_many:
        problem = " and ".join(too_many)
    else:
        return
    # The annotations of quarantined images are a consequence, not a reason.
    reasons = {key: count for key, count in manifest.reasons.items() if key != IMAGE_QUARANTINED}
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:_TOP_REASONS]
    advice = ["correct the dataset"]
    if other_classes and not counts["objects"]:
        advice.append("select other classes with data.classes")
    advice += [_ADVICE[reason] for reason, _ in ranked if reason in _ADVICE]
    if counts["objects"]:
        advice.append(f"allow a larger share with data.max_quarantined (now {max_quarantined:g})")
    raise QuarantineError(
        f"{listing.name}: {problem}: "
        f"{', '.join(f'{reason} ({count})' for reason, count in ranked) or 'no reasons'}."
        f"{_example(ranked, rejects)} All are in {storage.join(shards_url, QUARANTINE_NAME)}. "
        f"To proceed, {', or '.join(advice)}."
    )


def _example(ranked: Sequence[tuple[str, int]], rejects: Sequence[Reject]) -> str:
    """Return a sentence about the first record that is left out for the most common reason."""
    for reason, _ in ranked:
        for reject in rejects:
            if reject.reason == reason and reject.detail and not reject.corrected:
                return f" For example {reject.file or reject.record}: {reject.detail}."
    return ""
