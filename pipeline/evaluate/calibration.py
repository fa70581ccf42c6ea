"""How often detections of a score are right: the calibration of the scores."""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.image_matches import Floats, ImageMatches, Integers

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Detections in bins of equal width of their score, from 0 to 1.

    Args:
        counts: (BINS,) number of detections; those on crowd regions do not count.
        scores: (BINS,) their mean score; NaN for an empty bin.
        precisions: (BINS,) share that matches an object of their class at IoU 0.5; NaN likewise.
        error: expected calibration error: the mean of the distance between both, over all
            detections; NaN without detections.
    """

    counts: Integers
    scores: Floats
    precisions: Floats
    error: float


def score_calibration(matches: ImageMatches) -> Calibration:
    """Measure the calibration of a detector's scores.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    counted = ~matches.ignored[:, 0]
    scores, true = matches.scores[counted], matches.matched[counted, 0]
    bins = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        mean_scores = np.bincount(bins, weights=scores, minlength=BINS) / counts
        precisions = np.bincount(bins, weights=true, minlength=BINS) / counts
    distance = np.abs(mean_scores - precisions)
    error = np.nan
    if len(scores):
        error = float(np.nansum(distance * counts) / counts.sum())
    return Calibration(counts, mean_scores, precisions, error)
