"""What is drawn: objects with a box, a label, and optionally a mask and keypoints.

Shapes: D detections, H W pixels of the image, h w pixels of a part of it, P keypoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.detections import Detections

MIN_DRAWN_LOGIT = 2.0  # score of a keypoint (Detectron's visualization)

Skeleton = Sequence[tuple[int, int]]
"""Links between keypoints, as pairs of their indices."""


@dataclass(frozen=True)
class DrawnObject:
    """One object to draw.

    Args:
        box: x1 y1 x2 y2, pixels of the image.
        caption: text of the label; empty for none.
        color_key: equal keys get equal colors, neighboring keys distinct ones.
        bitmap: (h, w) 0/1 mask, or None.
        keypoints: (P, 3) x, y in pixels of the image, and visibility: 0 is not drawn, 1 (occluded)
            is white, 2 has the object's color; or None.
        skeleton: links, each drawn if both of its keypoints are.
        bitmap_corner: x, y of the bitmap's upper left pixel in the image. The default suits a
            bitmap of the whole image.
    """

    box: tuple[float, float, float, float]
    caption: str
    color_key: int
    bitmap: npt.NDArray[np.generic] | None = None
    keypoints: npt.NDArray[np.floating] | None = None
    skeleton: Skeleton = ()
    bitmap_corner: tuple[int, int] = (0, 0)


def detected_objects(
    detections: Detections, names: Sequence[str], skeleton: Skeleton = ()
) -> list[DrawnObject]:
    """Return detections as objects to draw, by ascending score: the highest is on top.

    Args:
        detections: in pixels of the image to draw on; labels 1..K.
        names: the K class names.
        skeleton: links between the keypoints.
    """
    kept = detections.to("cpu")
    kept = kept[kept.scores.argsort(stable=True)]
    crops = kept.bitmap_crops() if kept.masks is not None else [None] * len(kept)
    keypoints = [None] * len(kept) if kept.keypoints is None else kept.keypoints.tolist()
    return [
        DrawnObject(
            box=tuple(box),
            caption=f"{names[label - 1]} {score:.2f}",
            color_key=label,
            bitmap=None if crop is None else crop.bitmap.numpy(),
            keypoints=None if points is None else visible_keypoints(points),
            skeleton=skeleton,
            bitmap_corner=(0, 0) if crop is None else crop.corner,
        )
        for box, label, score, crop, points in zip(
            kept.boxes.tolist(),
            kept.labels.tolist(),
            kept.scores.tolist(),
            crops,
            keypoints,
            strict=True,
        )
    ]


def visible_keypoints(points: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    """Convert a detection's keypoints (x, y, logit) to those of `DrawnObject`, (P, 3).

    Keypoints with a logit below ``MIN_DRAWN_LOGIT`` are not drawn.
    """
    keypoints = np.array(points, dtype=np.float64).reshape(-1, 3)
    keypoints[:, 2] = np.where(keypoints[:, 2] >= MIN_DRAWN_LOGIT, 2, 0)
    return keypoints
