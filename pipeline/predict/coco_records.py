"""Predictions in COCO's results format, with names."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model import Detections, Predictor
from pipeline import storage
from pipeline.infer.detection_rows import coco_results, detection_row
from pipeline.infer.detection_stream import ImagePrediction
from pipeline.infer.input_image import InputImage
from pipeline.infer.json_list import JsonList
from pipeline.output_layout import COCO_IMAGES_FILE, COCO_RESULTS_FILE
from pipeline.predict.output import Output


class CocoRecords:
    """Writes detections in COCO's results format, with names, and the images of its ids.

    Args:
        predictor: provides the names of categories.
        add_result: adds to the list of detections.
        add_image: adds to the list of images.
    """

    def __init__(
        self,
        predictor: Predictor,
        add_result: Callable[[dict[str, Any]], None],
        add_image: Callable[[dict[str, Any]], None],
    ) -> None:
        self._predictor = predictor
        self._add_result = add_result
        self._add_image = add_image
        self._count = 0

    def add(self, name: str, detections: Detections, **details: Any) -> None:
        """Add an image and its detections.

        Args:
            name: of the input.
            detections: those of the wanted classes and scores.
            details: more entries of the image, such as the frame of a video.
        """
        self._count += 1
        prediction = ImagePrediction(InputImage(self._count, name, b""), detections)
        row = detection_row(prediction, self._predictor, 0.0)
        size = {"height": row.height, "width": row.width}
        self._add_image({"id": self._count, "file_name": name} | size | details)
        class_names = self._predictor.class_names
        for label, result in zip(row.labels, coco_results(row), strict=True):
            self._add_result(result | {"category_name": class_names[label - 1], "file_name": name})

    def add_failed(self, name: str, error: str) -> None:
        """Add an image without results."""
        self._count += 1
        self._add_image({"id": self._count, "file_name": name, "error": error})


@contextmanager
def coco_records(predictor: Predictor, output: Output) -> Iterator[CocoRecords]:
    """Provide the records of a ``with`` block and write them at its end, even after an error."""
    with tempfile.TemporaryDirectory(prefix="coco-") as scratch:
        results, images = Path(scratch) / COCO_RESULTS_FILE, Path(scratch) / COCO_IMAGES_FILE
        try:
            with JsonList(results) as add_result, JsonList(images) as add_image:
                yield CocoRecords(predictor, add_result, add_image)
        finally:
            storage.upload_file(images, output.url_of(COCO_IMAGES_FILE))
            storage.upload_file(results, output.url_of(COCO_RESULTS_FILE))
