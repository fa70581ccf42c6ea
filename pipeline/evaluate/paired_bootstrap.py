"""The difference in AP between two detectors, with a confidence interval over the images.

Both detectors are evaluated on the same images. Each resample draws as many images as there are,
with replacement, and computes both APs from the detections and objects of the drawn images. The
interval is that of the middle 95% of the differences (Efron's percentile method).

Shapes: I images, S resamples, T IoU thresholds, K classes, D detections and P positions of one
class: detections that match an object at some threshold.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluate.average_precision import (
    RECALLS,
    detections_by_class,
    group_by_class,
    precision_table,
)
from pipeline.evaluate.image_matches import Floats, ImageMatches, Integers
from pipeline.evaluate.metrics import mean_of_measured

RESAMPLES, CONFIDENCE = 1000, 0.95

AP_THRESHOLDS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}
"""The metrics that can be compared, and the IoU thresholds that each averages."""

_CHUNK = 100  # resamples at a time: the counts of one class then fit into the processor's cache


class DifferentDataError(ValueError):
    """The two evaluations are not of the same images and objects."""


@dataclass(frozen=True)
class Difference:
    """A metric of two detectors, A and B.

    Args:
        value_a: of A, on all images; -1 if there is nothing to measure.
        value_b: of B, likewise.
        difference: B minus A, above 0 if B is better.
        low: lower end of the confidence interval of the difference.
        high: upper end.
    """

    value_a: float
    value_b: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedComparison:
    """A comparison of two detectors on the same images.

    Args:
        metric: ``AP``, ``AP50`` or ``AP75``.
        overall: the mean over the classes.
        per_class: category id -> its difference; classes without objects are left out.
        images: number of images.
        resamples: number of resamples.
        confidence: of the intervals, such as 0.95.
        seed: that the resamples were drawn with.
    """

    metric: str
    overall: Difference
    per_class: dict[int, Difference]
    images: int
    resamples: int
    confidence: float
    seed: int


def compare_average_precision(
    a: ImageMatches,
    b: ImageMatches,
    metric: str = "AP",
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedComparison:
    """Compare the AP of two detectors by a paired bootstrap over the images.

    Equal arguments give equal results. Two equal detectors have the interval [0, 0]. Classes that a
    resample has no object of are left out of its mean, as COCO leaves out classes without objects.

    Args:
        a: matches of one detector.
        b: matches of the other, on the same images.
        metric: ``AP``, ``AP50`` or ``AP75``.
        resamples: number of resamples.
        confidence: of the intervals, in (0, 1).
        seed: selects the resamples.

    Raises:
        DifferentDataError: the images, the objects or their classes differ.
        ValueError: unknown metric.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    if metric not in AP_THRESHOLDS:
        raise ValueError(f"{metric} cannot be resampled; use one of {', '.join(AP_THRESHOLDS)}")
    a, b = _of_classes_with_objects(a), _of_classes_with_objects(b)
    check_same_data(a, b)
    thresholds = AP_THRESHOLDS[metric]
    images = len(a.image_ids)
    ranked = [detections_by_class(each) for each in (a, b)]
    differences = []  # (S, K) of each chunk
    for draws in draw_images(images, resamples, seed):
        values_a = resampled_precision(a, ranked[0], draws, thresholds)
        values_b = resampled_precision(b, ranked[1], draws, thresholds)
        differences.append(values_b - values_a)
    table_a, table_b = (precision_table(each)[thresholds] for each in (a, b))
    by_class = np.concatenate(differences)
    return PairedComparison(
        metric=metric,
        overall=_difference(table_a, table_b, _mean(by_class), confidence),
        per_class={
            class_id: _difference(table_a[:, :, k], table_b[:, :, k], by_class[:, k], confidence)
            for k, class_id in enumerate(a.class_ids.tolist())
        },
        images=images,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def check_same_data(a: ImageMatches, b: ImageMatches) -> None:
    """Check that two evaluations are of the same images and objects.

    Raises:
        DifferentDataError: says what differs.
    """
    for name, ours, theirs in (
        ("images", a.image_ids, b.image_ids),
        ("objects", a.object_images, b.object_images),
        ("classes", a.class_ids[a.object_classes], b.class_ids[b.object_classes]),
    ):
        if not np.array_equal(ours, theirs):
            raise DifferentDataError(
                f"the two evaluations have different {name} ({len(ours)} and {len(theirs)}), so "
                "they cannot be compared image by image; evaluate both on the same shards"
            )


def _of_classes_with_objects(matches: ImageMatches) -> ImageMatches:
    """Leave out the classes without objects: AP does not count them, nor their detections."""
    present = np.unique(matches.object_classes)
    kept = np.isin(matches.classes, present)
    return replace(
        matches,
        class_ids=matches.class_ids[present],
        images=matches.images[kept],
        classes=np.searchsorted(present, matches.classes[kept]),
        scores=matches.scores[kept],
        matched=matches.matched[kept],
        ignored=matches.ignored[kept],
        object_classes=np.searchsorted(present, matches.object_classes),
    )


def draw_images(images: int, resamples: int, seed: int) -> Iterator[NDArray[np.int32]]:
    """Yield chunks (I, S) of how often each resample draws each image."""
    rng = np.random.default_rng(seed)
    for first in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - first)
        drawn = rng.integers(images, size=(count, images))
        counts = np.stack([np.bincount(each, minlength=images) for each in drawn], axis=1)
        yield np.ascontiguousarray(counts, dtype=np.int32)


def resampled_precision(
    matches: ImageMatches,
    ranked: Sequence[Integers],
    draws: NDArray[np.int32],
    thresholds: slice = AP_THRESHOLDS["AP"],
) -> Floats:
    """Return the AP of each class in each resample, (S, K); NaN where it has no object.

    Args:
        matches: of one detector.
        ranked: indices of each class's detections by descending score (`detections_by_class`).
        draws: (I, S) how often each image is drawn.
        thresholds: those that AP averages.
    """
    values = np.full((draws.shape[1], len(matches.class_ids)), np.nan)
    objects = group_by_class(matches.object_classes, len(matches.class_ids))
    for k, of_class in enumerate(ranked):
        counts = draws[matches.object_images[objects[k]]].sum(axis=0)  # (S,)
        if counts.any():
            values[:, k] = _class_values(matches, of_class, draws, counts, thresholds)
            values[counts == 0, k] = np.nan
    return values


def _class_values(
    matches: ImageMatches,
    of_class: Integers,
    draws: NDArray[np.int32],
    objects: Integers,
    thresholds: slice,
) -> Floats:
    """Return the AP of one class in each resample, (S,).

    Precision and recall are needed at true positives only: between two of them recall stays and
    precision falls. All other detections only add to the number of detections so far.
    """
    matched = matches.matched[of_class, thresholds]
    ignored = matches.ignored[of_class, thresholds]
    images = matches.images[of_class]
    positions = np.flatnonzero((matched | ignored).any(axis=1))
    if not len(positions):
        return np.zeros(draws.shape[1])
    # Detections that match nothing at any threshold, before each position.
    false = np.setdiff1d(np.arange(positions[-1]), positions, assume_unique=True)
    weights = draws[images[positions]]  # (P, S)
    before = _sums_between(draws, images[false], np.searchsorted(false, positions))
    false_before = before.cumsum(axis=0)  # (P, S)
    total: Floats = np.zeros(draws.shape[1])
    matched, ignored = matched[positions], ignored[positions]
    for t in range(matched.shape[1]):
        counted = (weights * ~ignored[:, t, None]).cumsum(axis=0) + false_before
        at = np.flatnonzero(matched[:, t])
        true = weights[at].cumsum(axis=0)
        total = total + _mean_precision(true, counted[at], objects)
    mean: Floats = total / matched.shape[1]
    return mean


def _sums_between(draws: NDArray[np.int32], images: Integers, ends: Integers) -> NDArray[np.int32]:
    """Return how many detections lie between one position and the next, (P, S).

    Args:
        draws: (I, S).
        images: the detections' images.
        ends: (P,) ascending; the detections ``ends[p - 1] : ends[p]`` lie before position p.
    """
    sums = np.zeros((len(ends), draws.shape[1]), dtype=np.int32)
    starts = np.concatenate([[0], ends[:-1]])
    filled = np.flatnonzero(ends > starts)
    if len(filled):
        sums[filled] = np.add.reduceat(draws[images], starts[filled], axis=0)
    return sums


def _mean_precision(
    true: NDArray[np.int32], counted: NDArray[np.int32], objects: Integers
) -> Floats:
    """Return the mean of the interpolated precision over the recalls, (S,).

    Args:
        true: (P, S) true positives up to each true positive.
        counted: (P, S) detections up to it.
        objects: (S,) number of objects.
    """
    if not len(true):
        return np.zeros(true.shape[1])
    precision = true / np.maximum(counted, 1)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    # How many recalls are first reached at each position.
    reached = np.searchsorted(RECALLS, true / np.maximum(objects, 1), side="right")
    reached[1:] -= reached[:-1].copy()
    mean: Floats = np.einsum("ps,ps->s", envelope, reached) / len(RECALLS)
    return mean


def _mean(by_class: Floats) -> Floats:
    """Return the mean over the classes that a resample measures, (S,); NaN if there are none."""
    measured = np.isfinite(by_class)
    count = measured.sum(axis=1)
    total = np.where(measured, by_class, 0.0).sum(axis=1)
    means: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means


def _difference(
    table_a: Floats, table_b: Floats, differences: Floats, confidence: float
) -> Difference:
    """Return the difference between two tables of precisions, and the middle of the resampled ones.

    Args:
        table_a: precisions of A, of any shape; -1 where not measured.
        table_b: likewise of B.
        differences: (S,) of the resamples; NaN where not measured.
        confidence: share of the differences in the interval.
    """
    value_a, value_b = mean_of_measured(table_a), mean_of_measured(table_b)
    measured = differences[np.isfinite(differences)]
    if not len(measured):
        return Difference(value_a, value_b, value_b - value_a, np.nan, np.nan)
    outside = (1 - confidence) / 2
    low, high = np.quantile(measured, (outside, 1 - outside)).tolist()
    return Difference(value_a, value_b, value_b - value_a, low, high)
