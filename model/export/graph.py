"""The detector's inference on one picture as a function of its pixels, for tracers to follow.

Shapes: H W of the picture, L levels, A anchors of a level, R detections, M mask side.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.detector import Detector
from model.structures import ImageSize, Proposals


class InferenceGraph(nn.Module):
    """A detector from pixels to detections, without Python objects between.

    Args:
        detector: Faster or Mask R-CNN on a feature pyramid; its weights are shared.
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
        masks = () if self.detector.roi_heads.mask is None else ("masks",)
        return ("boxes", "scores", "labels", *masks)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Find objects.

        Args:
            pixels: (H, W, 3) uint8 RGB, already of the size at which the network shall see it.

        Returns:
            boxes (R, 4) float32, pixels of the picture; scores (R,) float32, best first; labels
            (R,) int64, 1..K; and with a mask head masks (R, M, M) float32, probabilities inside
            the box.
        """
        detector, size = self.detector, ImageSize(*pixels.shape[:2])
        image = self._network_input(pixels, size)
        features = detector.fpn(detector.backbone(image))
        proposals = self._propose(features, size, ImageSize(*image.shape[2:]))
        found = detector.roi_heads.detect(features, proposals, [size])
        results = {"boxes": found.rois[:, 1:], "scores": found.scores, "labels": found.labels}
        masks = detector.roi_heads.masks_of(features, found)
        if masks is not None:
            results["masks"] = masks
        return results

    def _network_input(self, pixels: Tensor, size: ImageSize) -> Tensor:
        """The picture normalised, (1, 3, H', W'), zeros where it is padded to the divisor."""
        rules, divisor = self.detector.config.conventions, self.detector.config.input.size_divisor
        colours = pixels.flip(2) if rules.pixel_order == "bgr" else pixels
        levels = (colours.float() - self.mean) * self.scale
        # No division of negative numbers: ONNX rounds it towards zero, Python down.
        bottom, right = ((side + divisor - 1) // divisor * divisor - side for side in size)
        image = F.pad(levels.permute(2, 0, 1)[None], (0, right, 0, bottom))
        return image.contiguous(memory_format=torch.channels_last)

    def _propose(self, features: Sequence[Tensor], size: ImageSize, canvas: ImageSize) -> Proposals:
        rpn = self.detector.rpn
        judged = [rpn.head(feature) for feature in features]
        cells = [ImageSize(*feature.shape[2:]) for feature in features]
        # Whether a level has fewer anchors than are looked at would depend on the picture's size.
        # Anchors without sides are never proposed, and with them every level has enough.
        spare = rpn.settings.pre_nms_test
        return rpn.propose(
            [F.pad(logits, (0, spare), value=-torch.inf) for logits, _ in judged],
            [F.pad(deltas, (0, 0, 0, spare)) for _, deltas in judged],
            [F.pad(anchors, (0, 0, 0, spare)) for anchors in rpn.anchors.tile(cells, canvas)],
            [size],
            training=False,
        )
