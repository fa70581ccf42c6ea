"""How well a detector did on each image, in a few numbers.

Shapes: I images, N detections of all images.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.average_precision import interpolated_precision
from pipeline.evaluate.image_matches import Floats, ImageMatches, Integers


@dataclass(frozen=True)
class ImageSummary:
    """Counts and a score for each image, (I,) each.

    Args:
        objects: annotated objects, crowd regions aside.
        matched: objects that a confident detection of their class matches at IoU 0.5.
        missed: the other objects.
        false_positives: confident detections that match no object at IoU 0.5 and do not lie on a
            crowd region.
        score: COCO's AP of this image alone, with the detections of all classes in one ranking:
            the precision, averaged over recalls and over the IoU thresholds 0.5 to 0.95. NaN for an
            image without objects.
    """

    objects: Integers
    matched: Integers
    missed: Integers
    false_positives: Integers
    score: Floats


def summarize_images(matches: ImageMatches, score_threshold: float) -> ImageSummary:
    """Summarize the matches of each image.

    Args:
        matches: of one detector.
        score_threshold: score from which on a detection is confident.
    """
    images = len(matches.image_ids)
    objects = np.bincount(matches.object_images, minlength=images)
    confident = matches.scores >= score_threshold
    true, ignored = matches.matched[:, 0], matches.ignored[:, 0]
    matched = np.bincount(matches.images[confident & true], minlength=images)
    is_false = confident & ~true & ~ignored
    return ImageSummary(
        objects=objects,
        matched=matched,
        missed=objects - matched,
        false_positives=np.bincount(matches.images[is_false], minlength=images),
        score=_scores(matches, objects),
    )


def _scores(matches: ImageMatches, objects: Integers) -> Floats:
    scores = np.full(len(objects), np.nan)
    order = np.lexsort((-matches.scores, matches.images))
    bounds = np.searchsorted(matches.images[order], np.arange(len(objects) + 1))
    for n in np.flatnonzero(objects):
        of_image = order[bounds[n] : bounds[n + 1]]
        table = interpolated_precision(
            matches.matched[of_image], matches.ignored[of_image], int(objects[n])
        )
        scores[n] = table.mean()
    return scores
