"""The detector's inference on one picture as a function of its pixels, for tracers to follow.

Shapes: H W of the picture, L levels, A anchors of a level, R detections, M mask side,
P keypoints of an object.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.boxes.anchors import AnchorGrid
from model.boxes.selection import SelectedBoxes, proposals_as_boxes
from model.detector import Detector
from model.retinanet.network import RetinaNet
from model.structures import ImageBatch, ImageSize, Proposals


class InferenceGraph(nn.Module):
    """A detector from pixels to detections, without Python objects between.

    Args:
        detector: its weights are shared.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        rules, device = detector.config.conventions, detector.device
        self.register_buffer("mean", torch.tensor(rules.pixel_mean, device=device))
        self.register_buffer("scale", 1 / torch.tensor(rules.pixel_std, device=device))

    @property
    def outputs(self) -> tuple[str, ...]:
        """What :meth:`forward` gives, in order."""
        heads = self.detector.roi_heads
        has_masks = heads is not None and heads.mask is not None
        has_keypoints = heads is not None and heads.keypoint is not None
        masks, keypoints = ("masks",) * has_masks, ("keypoints",) * has_keypoints
        return ("boxes", "scores", "labels", *masks, *keypoints)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Find objects.

        Args:
            pixels: (H, W, 3) uint8 RGB, already of the size at which the network shall see it.

        Returns:
            boxes (R, 4) float32, pixels of the picture; scores (R,) float32, best first; labels
            (R,) int64, 1..K, or 1 from a proposal network alone; with a mask head masks (R, M, M)
            float32, probabilities inside the box; with a keypoint head keypoints (R, P, 3) float32,
            x, y in pixels of the picture, and the logit there.
        """
        detector, size = self.detector, ImageSize(*pixels.shape[:2])
        images = ImageBatch(self._network_input(pixels, size), (size,), (size,))
        features = detector.features(images)
        found = self._find(features, images)
        results = {"boxes": found.rois[:, 1:], "scores": found.scores, "labels": found.labels}
        if detector.roi_heads is None:
            return results
        masks = detector.roi_heads.masks_of(features, found)
        keypoints = detector.roi_heads.keypoints_of(features, found)
        if keypoints is not None:
            origin = detector.config.conventions.keypoint_origin
            keypoints = torch.cat((keypoints[..., :2] + origin, keypoints[..., 2:]), 2)
        parts = {"masks": masks, "keypoints": keypoints}
        return results | {name: part for name, part in parts.items() if part is not None}

    def _find(self, features: Sequence[Tensor], images: ImageBatch) -> SelectedBoxes:
        detector = self.detector
        if detector.retinanet is not None:
            return self._detect_in_one_stage(detector.retinanet, features, images)
        proposals = self._propose(features, images)
        if detector.roi_heads is None:
            return proposals_as_boxes(proposals)
        return detector.roi_heads.detect(features, proposals, images.sizes)

    def _network_input(self, pixels: Tensor, size: ImageSize) -> Tensor:
        """The picture normalised, (1, 3, H', W'), zeros where it is padded to the divisor."""
        rules, divisor = self.detector.config.conventions, self.detector.config.input.size_divisor
        colours = pixels.flip(2) if rules.pixel_order == "bgr" else pixels
        levels = (colours.float() - self.mean) * self.scale
        # No division of negative numbers: ONNX rounds it towards zero, Python down.
        bottom, right = ((side + divisor - 1) // divisor * divisor - side for side in size)
        image = F.pad(levels.permute(2, 0, 1)[None], (0, right, 0, bottom))
        return image.contiguous(memory_format=torch.channels_last)

    def _propose(self, features: Sequence[Tensor], images: ImageBatch) -> Proposals:
        rpn = self.detector.rpn
        judged = [rpn.head(feature) for feature in features]
        spare = rpn.settings.pre_nms_test
        return rpn.propose(
            [F.pad(logits, (0, spare), value=-torch.inf) for logits, _ in judged],
            [F.pad(deltas, (0, 0, 0, spare)) for _, deltas in judged],
            _tile_and_spare(rpn.anchors, features, images, spare),
            images.sizes,
            training=False,
        )

    def _detect_in_one_stage(
        self, network: RetinaNet, features: Sequence[Tensor], images: ImageBatch
    ) -> SelectedBoxes:
        spare = network.settings.pre_nms
        anchors = _tile_and_spare(network.anchors, features, images, spare)
        judged = [network(feature) for feature in features]
        best = [
            network.best_of_level(
                (
                    F.pad(logits, (0, 0, 0, spare), value=-torch.inf),
                    F.pad(deltas, (0, 0, 0, spare)),
                ),
                of_level,
            )
            for (logits, deltas), of_level in zip(judged, anchors, strict=True)
        ]
        return network.select(network.confident(best), images.sizes)


def _tile_and_spare(
    grid: AnchorGrid, features: Sequence[Tensor], images: ImageBatch, spare: int
) -> list[Tensor]:
    """The anchors of each level, and ``spare`` without sides after them.

    Whether a level has fewer anchors than are looked at would depend on the picture's size. Anchors
    at -inf are never chosen before others nor kept, and with them every level has enough.
    """
    cells = [ImageSize(*feature.shape[2:]) for feature in features]
    anchors = grid.tile(cells, ImageSize(*images.pixels.shape[2:]))
    return [F.pad(level, (0, 0, 0, spare)) for level in anchors]
