"""Detections as answers: JSON, or the image with the objects drawn on it."""

import io
import json

from PIL import Image

from model import Detections
from model.drawing.canvas import MIN_SHORT_SIDE
from model.images.decode import Pixels
from pipeline.predict.detector import DrawingDetector
from pipeline.serve.errors import RefusedError
from pipeline.serve.messages import JSON, PNG, Answer

_PNG_LEVEL = 1  # an answer is sent once; a smaller file would cost more than it saves


def json_answer(detections: Detections, detector: DrawingDetector, model: str) -> Answer:
    """Return detections as JSON.

    Args:
        detections: those of the image that were asked for, highest score first.
        detector: provides the names of classes and keypoints.
        model: the version that made them.
    """
    predictor = detector.predictor
    labels, head = detections.labels.tolist(), predictor.config.keypoint
    keypoints = detections.keypoints
    content = {
        "model": model,
        "height": detections.image_size.height,
        "width": detections.image_size.width,
        "boxes": detections.boxes.tolist(),
        "scores": detections.scores.tolist(),
        "labels": labels,
        "names": [predictor.class_names[label - 1] for label in labels],
        "masks": None if detections.masks is None else detections.rle(),
        "keypoints": None if keypoints is None else keypoints.tolist(),
        "keypoint_names": None if keypoints is None or head is None else list(head.names),
    }
    return Answer(200, json.dumps(content, allow_nan=False).encode(), JSON)


def drawn_answer(pixels: Pixels, detections: Detections, detector: DrawingDetector) -> Answer:
    """Return the image with the detections drawn on it, as PNG.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        detections: those of the image that were asked for.
        detector: draws them.
    """
    drawn = detector.draw(pixels, detections, MIN_SHORT_SIDE)
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return Answer(200, buffer.getvalue(), PNG)


def refusal(error: RefusedError) -> Answer:
    """Return why a request is refused, as JSON."""
    return Answer(error.status, json.dumps({"error": error.reason}).encode(), JSON)
