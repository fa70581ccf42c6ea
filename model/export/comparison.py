"""Compare the detections of an exported detector with those of the detector itself.

Shapes as in ``model.structures``; D detections of the detector, E of the exported one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from model.detections import Detections
from model.detector import Detector
from model.preprocess import canvas_size, normalize_images, pad_batch, resized_size
from model.structures import ImageBatch, ImageSize

# Another order of summation moves a coordinate by 1e-4 px and a score by 1e-5. A box pooled from
# the wrong pyramid level, a half-pixel shift or a wrong sample moves them by more than this.
BOX_TOLERANCE = 0.05
SCORE_TOLERANCE = 1e-3
MASK_TOLERANCE = 1e-2
# Keypoints are pixel centers of a box: either the same pixel or another one.
KEYPOINT_TOLERANCE = 0.5

ExportedDetector = Callable[[Tensor], Mapping[str, Tensor]]
""":meth:`model.export.graph.InferenceGraph.forward`, run from an exported file."""


@dataclass(frozen=True)
class Agreement:
    """How many detections match, and the largest differences among those.

    Args:
        expected: number of detections of the detector.
        exported: number of detections of the exported detector.
        matched: detections of both that agree within the tolerances.
        box: largest difference of a coordinate, pixels.
        score: largest difference of a score.
        mask: largest difference of a mask probability.
        keypoint: largest difference of a keypoint coordinate, pixels.
    """

    expected: int
    exported: int
    matched: int
    box: float = 0.0
    score: float = 0.0
    mask: float = 0.0
    keypoint: float = 0.0

    @property
    def matched_share(self) -> float:
        """Share of the larger set of detections that matches; 1 if both sets are empty."""
        largest = max(self.expected, self.exported)
        return self.matched / largest if largest else 1.0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            self.expected + other.expected,
            self.exported + other.exported,
            self.matched + other.matched,
            max(self.box, other.box),
            max(self.score, other.score),
            max(self.mask, other.mask),
            max(self.keypoint, other.keypoint),
        )

    def __str__(self) -> str:
        return (
            f"{self.matched} detections match, of {self.expected} expected and {self.exported} "
            f"exported; largest differences: boxes {self.box:.1e} px, scores {self.score:.1e}, "
            f"masks {self.mask:.1e}, keypoints {self.keypoint:.1e} px"
        )


def compare_detections(expected: Detections, exported: Mapping[str, Tensor]) -> Agreement:
    """Match each detection to the nearest exported one of its class; order does not matter.

    Args:
        expected: D detections.
        exported: boxes (E, 4), scores (E,), labels (E,) and, if ``expected`` has them, masks
            (E, M, M) and keypoints (E, P, 3).
    """
    counts = len(expected), len(exported["scores"])
    if 0 in counts:
        return Agreement(*counts, 0)
    distance = (expected.boxes[:, None] - exported["boxes"]).abs().amax(2)  # (D, E)
    distance[expected.labels[:, None] != exported["labels"]] = torch.inf
    box, nearest = distance.min(1)
    score = (expected.scores - exported["scores"][nearest]).abs()
    mask = keypoint = torch.zeros_like(score)
    if isinstance(expected.masks, Tensor):
        mask = (expected.masks - exported["masks"][nearest]).abs().amax((1, 2))
    if expected.keypoints is not None:
        shift = expected.keypoints - exported["keypoints"][nearest]
        keypoint = shift[..., :2].abs().amax((1, 2))
    differences = torch.stack((box, score, mask, keypoint))
    tolerances = (BOX_TOLERANCE, SCORE_TOLERANCE, MASK_TOLERANCE, KEYPOINT_TOLERANCE)
    matches = (differences <= differences.new_tensor(tolerances)[:, None]).all(0)
    largest = differences[:, matches].amax(1).tolist() if matches.any() else ()
    # Each exported detection counts once: of two that are the same, NMS would have removed one.
    return Agreement(*counts, len(set(nearest[matches].tolist())), *largest)


@torch.inference_mode()
def compare_on_images(
    detector: Detector,
    exported: ExportedDetector,
    images: Iterable[Tensor],
    resizes: bool = False,
) -> Agreement:
    """Run both detectors on images, and compare all detections.

    Args:
        detector: in eval mode.
        exported: the same detector, exported.
        images: (H, W, 3) uint8 RGB on the detector's device, at network resolution unless the
            exported detector resizes them.
        resizes: the exported detector resizes images, so the detector gets them resized too.
    """
    total = Agreement(0, 0, 0)
    for image in images:
        batch = _resized_batch(detector, image) if resizes else _padded_batch(detector, image)
        (expected,) = detector(batch.to(detector.device))
        results = {name: value.cpu() for name, value in exported(image).items()}
        total += compare_detections(expected.to("cpu"), results)
    return total


def _padded_batch(detector: Detector, image: Tensor) -> ImageBatch:
    size = ImageSize(*image.shape[:2])
    return pad_batch([image.cpu()], [size], size_divisor=detector.config.input.size_divisor)


def _resized_batch(detector: Detector, image: Tensor) -> ImageBatch:
    settings, conventions = detector.config.input, detector.config.conventions
    original = ImageSize(*image.shape[:2])
    size = resized_size(
        original, settings.short_side, settings.long_side, conventions.resize_rounding
    )
    canvas = canvas_size([size], settings.size_divisor)
    pixels = normalize_images([image], [size], canvas, conventions)
    return ImageBatch(pixels, (size,), (original,))
