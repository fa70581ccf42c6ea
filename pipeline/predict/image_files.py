"""Predict on image files: decode ahead, detect, then draw and write in threads."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from model import Detections
from model.drawing.canvas import MIN_SHORT_SIDE
from model.images.decode import Pixels
from pipeline.infer.detection_stream import ImagePrediction, predict_images
from pipeline.predict.detector import DrawingDetector
from pipeline.predict.inputs import InputFile
from pipeline.predict.output import Output
from pipeline.predict.threads import map_in_threads

logger = logging.getLogger(__name__)

_UNFINISHED = 2  # images drawn and written while the detector goes on
_WINDOW_BATCHES = 4


@dataclass(frozen=True)
class ImageResult:
    """The result of one image.

    Args:
        file: the image.
        detections: those of the wanted classes and scores; None if there is an ``error``.
        drawn: (H, W, 3) uint8 RGB, or None.
        error: why there are no detections.
    """

    file: InputFile
    detections: Detections | None
    drawn: Pixels | None = None
    error: str | None = None


def predict_files(
    detector: DrawingDetector,
    files: Sequence[InputFile],
    batch: int,
    output: Output | None,
    crops: bool,
) -> Iterator[ImageResult]:
    """Predict on images and write what is drawn.

    Args:
        detector: detects and draws.
        files: the images.
        batch: images per forward pass.
        output: where to write the drawn images; None to only draw them.
        crops: whether to write crops too.

    Yields:
        The result of each image, in order.

    Raises:
        StorageError: a result cannot be written.
    """
    window_batches = 1 if batch == 1 else _WINDOW_BATCHES
    predictions = predict_images(detector.predictor, files, batch, window_batches)
    finish = _finisher(detector, output, crops)
    yield from map_in_threads(finish, predictions, min(4, os.cpu_count() or 1), _UNFINISHED)


def _finisher(
    detector: DrawingDetector, output: Output | None, crops: bool
) -> Callable[[ImagePrediction[InputFile]], ImageResult]:
    def finish(prediction: ImagePrediction[InputFile]) -> ImageResult:
        file, pixels = prediction.image, prediction.pixels
        if prediction.detections is None or pixels is None:
            return ImageResult(file, None, error=prediction.error)
        kept = detector.select(prediction.detections)
        drawn = detector.draw(pixels, kept, MIN_SHORT_SIDE)
        if output is not None:
            output.write_image(file.name, drawn)
            if crops:
                output.write_crops(file.name, detector.crops(pixels, kept))
        return ImageResult(file, kept, drawn)

    return finish
