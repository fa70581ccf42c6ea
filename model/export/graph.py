"""Inference on one image as a function of its pixels, for tracing.

Shapes as in ``model.structures``; H W of the image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.detector import Detector
from model.structures import ImageBatch, ImageSize


class InferenceGraph(nn.Module):
    """A detector from pixels to detections, without Python objects at its interface.

    Args:
        detector: its weights are shared.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        conventions, device = detector.config.conventions, detector.device
        self.register_buffer("mean", torch.tensor(conventions.pixel_mean, device=device))
        self.register_buffer("scale", 1 / torch.tensor(conventions.pixel_std, device=device))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the results of :meth:`forward`, in order."""
        config = self.detector.config
        masks = ("masks",) if config.mask is not None else ()
        keypoints = ("keypoints",) if config.keypoint is not None else ()
        return ("boxes", "scores", "labels", *masks, *keypoints)

    def forward(self, pixels: Tensor, ratio: Tensor | None = None) -> dict[str, Tensor]:
        """Detect objects.

        Args:
            pixels: (H, W, 3) RGB levels, already resized to network resolution; uint8, or float32
                if resizing left fractions.
            ratio: (2,) float32, width and height of the original image divided by W and H; None if
                the image was not resized.

        Returns:
            boxes (D, 4) float32, pixels of the original image; scores (D,) float32, highest first;
            labels (D,) int64, 1..K, or 1 from a proposal network; with a mask head masks (D, M, M)
            float32, probabilities inside the box; with a keypoint head keypoints (D, P, 3) float32,
            x, y in pixels of the original image, and the logit there.
        """
        detector, size = self.detector, ImageSize(*pixels.shape[:2])
        images = ImageBatch(self._normalize(pixels, size), (size,), (size,))
        features = detector.features(images)
        selected = detector.detect(features, images)
        results = {"boxes": selected.boxes, "scores": selected.scores, "labels": selected.labels}
        masks = detector.masks(features, selected)
        if masks is not None:
            results["masks"] = masks
        heatmaps = detector.heatmaps(features, selected)
        if heatmaps is not None:
            results["keypoints"] = detector.keypoints(selected, images, heatmaps)
        return results if ratio is None else self._scale(results, ratio)

    def _scale(self, results: dict[str, Tensor], ratio: Tensor) -> dict[str, Tensor]:
        """Return the results with boxes and keypoints in the original image."""
        convention = self.detector.box_convention
        scaled = {"boxes": convention.scale_by(results["boxes"], ratio)}
        if "keypoints" in results:
            keypoints, origin = (
                results["keypoints"],
                self.detector.config.conventions.keypoint_origin,
            )
            points = (keypoints[..., :2] - origin) * ratio + origin
            scaled["keypoints"] = torch.cat((points, keypoints[..., 2:]), dim=2)
        return results | scaled

    def _normalize(self, pixels: Tensor, size: ImageSize) -> Tensor:
        """Return the normalized image, (1, 3, H', W'), padded with zeros to the divisor."""
        config = self.detector.config
        channels = pixels.flip(2) if config.conventions.pixel_order == "bgr" else pixels
        normalized = (channels.float() - self.mean) * self.scale
        # No division of negative numbers: ONNX rounds it toward zero, Python down.
        divisor = config.input.size_divisor
        bottom, right = ((side + divisor - 1) // divisor * divisor - side for side in size)
        image = F.pad(normalized.permute(2, 0, 1)[None], (0, right, 0, bottom))
        return image.contiguous(memory_format=torch.channels_last)
