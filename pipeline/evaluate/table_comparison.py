"""Compare two evaluations by their per-image tables."""

from pipeline.evaluate.image_table import ImageTable
from pipeline.evaluate.paired_bootstrap import (
    AP_THRESHOLDS,
    CONFIDENCE,
    RESAMPLES,
    DifferentDataError,
    PairedComparison,
    compare_average_precision,
)

__all__ = ["DifferentDataError", "check_comparable", "compare_tables", "is_comparable"]


def compare_tables(
    a: ImageTable,
    b: ImageTable,
    metric: str,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedComparison:
    """Compare a metric of two detectors by a paired bootstrap over the images.

    Args:
        a: evaluation of one detector.
        b: evaluation of the other, on the same data.
        metric: such as ``segm/AP``; see `is_comparable`.
        resamples: number of resamples.
        confidence: of the intervals, in (0, 1).
        seed: selects the resamples.

    Raises:
        DifferentDataError: they were evaluated on other data, or with other limits.
        ValueError: the metric cannot be compared, or was not measured for both.
    """
    check_comparable(a, b)
    kind, _, name = metric.rpartition("/")
    if not is_comparable(metric):
        raise ValueError(
            f"{metric} has no per-image records; use {', '.join(AP_THRESHOLDS)} of bbox, segm or "
            "keypoints, such as segm/AP"
        )
    for table in (a, b):
        if kind not in table.matches:
            raise ValueError(
                f"{table.origin.weights} has no {kind} metrics, only {', '.join(table.matches)}"
            )
    return compare_average_precision(
        a.matches[kind], b.matches[kind], name, resamples, confidence, seed
    )


def is_comparable(metric: str) -> bool:
    """Return whether a metric can be computed from the table: AP, AP50 or AP75 of a kind."""
    kind, _, name = metric.rpartition("/")
    return kind in ("bbox", "segm", "keypoints") and name in AP_THRESHOLDS


def check_comparable(a: ImageTable, b: ImageTable) -> None:
    """Check that two detectors were evaluated on the same data in the same way.

    Raises:
        DifferentDataError: says what differs.
    """
    for what, ours, theirs in (
        ("dataset digest", a.origin.dataset_digest, b.origin.dataset_digest),
        ("evaluate.max_detections", a.origin.max_detections, b.origin.max_detections),
    ):
        if ours != theirs:
            raise DifferentDataError(
                f"{a.origin.weights} and {b.origin.weights} were evaluated with another {what} "
                f"({ours} and {theirs}); evaluate both on the same shards with the same settings"
            )
