"""Which images a detector does better on than another, and which worse.

Shapes: I images.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.image_matches import Integers
from pipeline.evaluate.image_table import ImageTable


@dataclass(frozen=True)
class ChangedImage:
    """One image, with the counts and scores of detectors A and B. Keys of ``comparison.json``.

    Args:
        image_id: id in the dataset.
        file_name: as in the dataset.
        objects: annotated objects, crowd regions aside.
        score_a: score of A (`ImageSummary`); None for an image without objects.
        score_b: score of B.
        missed_a: objects that A misses.
        missed_b: objects that B misses.
        false_a: confident false positives of A.
        false_b: confident false positives of B.
    """

    image_id: int
    file_name: str
    objects: int
    score_a: float | None
    score_b: float | None
    missed_a: int
    missed_b: int
    false_a: int
    false_b: int


@dataclass(frozen=True)
class ChangedImages:
    """The images that changed from A to B.

    Args:
        better: those that B does better on, the largest change first.
        worse: those that B does worse on, likewise.
        unchanged: number of the others.
    """

    better: tuple[ChangedImage, ...]
    worse: tuple[ChangedImage, ...]
    unchanged: int


def find_changed_images(a: ImageTable, b: ImageTable, kind: str) -> ChangedImages:
    """Order the images by how much their score changed from A to B.

    Images of equal scores, such as those without objects, are compared by their mistakes: missed
    objects and false positives.

    Args:
        a: evaluation of one detector.
        b: evaluation of the other, on the same images.
        kind: "bbox", "segm" or "keypoints".
    """
    of_a, of_b = a.summary(kind), b.summary(kind)
    gain = np.nan_to_num(of_b.score - of_a.score)
    mistakes_a = of_a.missed + of_a.false_positives
    mistakes_b = of_b.missed + of_b.false_positives
    fewer = mistakes_a - mistakes_b
    order = np.lexsort((-fewer, -gain))
    is_better = (gain > 0) | ((gain == 0) & (fewer > 0))
    is_worse = (gain < 0) | ((gain == 0) & (fewer < 0))

    def images(indices: Integers) -> tuple[ChangedImage, ...]:
        return tuple(
            ChangedImage(
                image_id=int(a.image_ids[n]),
                file_name=a.file_names[n],
                objects=int(of_a.objects[n]),
                score_a=_score(of_a.score[n]),
                score_b=_score(of_b.score[n]),
                missed_a=int(of_a.missed[n]),
                missed_b=int(of_b.missed[n]),
                false_a=int(of_a.false_positives[n]),
                false_b=int(of_b.false_positives[n]),
            )
            for n in indices.tolist()
        )

    return ChangedImages(
        better=images(order[is_better[order]]),
        worse=images(order[is_worse[order]][::-1]),
        unchanged=int((~is_better & ~is_worse).sum()),
    )


def _score(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
