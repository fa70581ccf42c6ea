"""Whether an exported detector finds what the detector finds.

Shapes: R detections of one, E of the other, H W of a picture, M mask side,
P keypoints of an object.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.detections import Detections
from model.detector import Detector
from model.preprocess import pad_batch
from model.structures import ImageSize

# The same sums in another order move a coordinate by 1e-4 px and a score by 1e-5; a box on the
# wrong pyramid level, half a pixel or a wrong sample moves more than this.
BOX_TOLERANCE = 0.05
SCORE_TOLERANCE = 1e-3
MASK_TOLERANCE = 1e-2
# Keypoints are whole pixels of a box: the same one, or another.
KEYPOINT_TOLERANCE = 0.5

Exported = Callable[[Tensor], Mapping[str, Tensor]]
"""What :meth:`model.export.graph.InferenceGraph.forward` is, run elsewhere."""


@dataclass(frozen=True)
class Agreement:
    """What two detectors found, and the largest differences between what they agree on.

    Args:
        wanted: detections of the one.
        found: detections of the other.
        agreeing: how many of ``wanted`` have a partner among ``found`` within the tolerances.
        box: largest difference of a coordinate, pixels.
        score: largest difference of a score.
        mask: largest difference of a mask's probability.
        keypoint: largest difference of a keypoint's coordinate, pixels.
    """

    wanted: int
    found: int
    agreeing: int
    box: float = 0.0
    score: float = 0.0
    mask: float = 0.0
    keypoint: float = 0.0

    @property
    def share(self) -> float:
        """Share of all detections on which both agree; 1 where nothing was found."""
        return self.agreeing / max(self.wanted, self.found) if self.wanted or self.found else 1.0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            self.wanted + other.wanted,
            self.found + other.found,
            self.agreeing + other.agreeing,
            max(self.box, other.box),
            max(self.score, other.score),
            max(self.mask, other.mask),
            max(self.keypoint, other.keypoint),
        )

    def __str__(self) -> str:
        return (
            f"{self.agreeing} detections agree of {self.wanted} here and {self.found} exported; "
            f"largest differences: boxes {self.box:.1e} px, scores {self.score:.1e}, "
            f"masks {self.mask:.1e}, keypoints {self.keypoint:.1e} px"
        )


def compare(wanted: Detections, found: Mapping[str, Tensor]) -> Agreement:
    """Pair each detection with the nearest of its class, in whatever order.

    Args:
        wanted: R detections.
        found: boxes (E, 4), scores (E,), labels (E,) and, where ``wanted`` has them, masks
            (E, M, M) and keypoints (E, P, 3).
    """
    counts = len(wanted), len(found["scores"])
    if 0 in counts:
        return Agreement(*counts, 0)
    distance = (wanted.boxes[:, None] - found["boxes"]).abs().amax(2)  # (R, E)
    distance[wanted.labels[:, None] != found["labels"]] = torch.inf
    box, partner = distance.min(1)
    score = (wanted.scores - found["scores"][partner]).abs()
    mask = keypoint = torch.zeros_like(score)
    if wanted.masks is not None:
        mask = (wanted.masks - found["masks"][partner]).abs().amax((1, 2))
    if wanted.keypoints is not None:
        keypoint = (wanted.keypoints - found["keypoints"][partner])[..., :2].abs().amax((1, 2))
    differences = torch.stack((box, score, mask, keypoint))
    tolerances = (BOX_TOLERANCE, SCORE_TOLERANCE, MASK_TOLERANCE, KEYPOINT_TOLERANCE)
    agrees = (differences <= differences.new_tensor(tolerances)[:, None]).all(0)
    largest = differences[:, agrees].amax(1).tolist() if agrees.any() else ()
    # no partner twice: of two boxes alike, one would have been suppressed
    return Agreement(*counts, len(set(partner[agrees].tolist())), *largest)


@torch.inference_mode()
def compare_on(detector: Detector, exported: Exported, pictures: Iterable[Tensor]) -> Agreement:
    """Run both on pictures, (H, W, 3) uint8 RGB on the detector's device, as they are."""
    total = Agreement(0, 0, 0)
    for picture in pictures:
        size = ImageSize(*picture.shape[:2])
        batch = pad_batch([picture.cpu()], [size], size_divisor=detector.config.input.size_divisor)
        (wanted,) = detector(batch.to(detector.device))
        found = {name: value.cpu() for name, value in exported(picture).items()}
        total += compare(wanted.to("cpu"), found)
    return total
