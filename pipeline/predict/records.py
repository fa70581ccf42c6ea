"""Detections in files: COCO's results format with names, and annotations."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from model import Detections, Predictor
from pipeline import storage
from pipeline.config.predict import PredictConfig
from pipeline.infer.annotations.source import AnnotationSource
from pipeline.infer.detection_rows import DetectionRow, coco_results, detection_row
from pipeline.infer.detection_stream import ImagePrediction
from pipeline.infer.input_image import InputImage
from pipeline.infer.json_list import JsonList
from pipeline.output_layout import COCO_IMAGES_FILE, COCO_RESULTS_FILE
from pipeline.predict.inputs import FoundInputs
from pipeline.predict.output import Output

_AddRow = Callable[[DetectionRow], None]
_AddElement = Callable[[dict[str, Any]], None]


class Records:
    """Numbers the images and frames, and adds what was detected on them to files.

    Args:
        predictor: provides the names of categories.
        results: the lists of COCO's results and of their images, or None.
        annotate: adds the annotations of an image, or None.
    """

    def __init__(
        self,
        predictor: Predictor,
        results: tuple[_AddElement, _AddElement] | None,
        annotate: _AddRow | None,
    ) -> None:
        self._predictor = predictor
        self._results = results
        self._annotate = annotate
        self._count = 0

    def add(self, name: str, detections: Detections) -> None:
        """Add an image.

        Args:
            name: of the input.
            detections: of the selected classes, above the minimum score.
        """
        row = self._add(name, detections, {})
        if self._annotate is not None:
            self._annotate(row)

    def add_frame(self, name: str, detections: Detections, frame: int, time_s: float) -> None:
        """Add a frame of a video, which has results but no annotations: it is not a file."""
        self._add(name, detections, {"frame": frame, "time_s": time_s})

    def add_failed(self, name: str, error: str) -> None:
        """Add an image without results."""
        self._count += 1
        if self._results is not None:
            _, add_image = self._results
            add_image({"id": self._count, "file_name": name, "error": error})

    def _add(self, name: str, detections: Detections, details: dict[str, Any]) -> DetectionRow:
        self._count += 1
        prediction = ImagePrediction(InputImage(self._count, name, b""), detections)
        row = detection_row(prediction, self._predictor, 0.0)
        if self._results is not None:
            add_result, add_image = self._results
            size = {"height": row.height, "width": row.width}
            add_image({"id": self._count, "file_name": name} | size | details)
            class_names = self._predictor.class_names
            for label, result in zip(row.labels, coco_results(row), strict=True):
                add_result(result | {"category_name": class_names[label - 1], "file_name": name})
        return row


@contextlib.contextmanager
def open_records(
    config: PredictConfig, predictor: Predictor, inputs: FoundInputs, output: Output
) -> Iterator[Records]:
    """Provide the records of a ``with`` block and write them at its end, even after an error."""
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(_coco_results(output)) if config.json_results else None
        annotate = None
        if config.annotations:
            annotate = stack.enter_context(_annotations(config, predictor, inputs, output))
        yield Records(predictor, results, annotate)


@contextlib.contextmanager
def _coco_results(output: Output) -> Iterator[tuple[_AddElement, _AddElement]]:
    with tempfile.TemporaryDirectory(prefix="coco-") as scratch:
        results, images = Path(scratch) / COCO_RESULTS_FILE, Path(scratch) / COCO_IMAGES_FILE
        try:
            with JsonList(results) as add_result, JsonList(images) as add_image:
                yield add_result, add_image
        finally:
            storage.upload_file(images, output.url_of(COCO_IMAGES_FILE))
            storage.upload_file(results, output.url_of(COCO_RESULTS_FILE))


def _annotations(
    config: PredictConfig, predictor: Predictor, inputs: FoundInputs, output: Output
) -> contextlib.AbstractContextManager[_AddRow]:
    # Optional: the extra "labeling".
    from pipeline.infer.annotations.label_studio import image_address  # noqa: PLC0415
    from pipeline.infer.annotations.writer import annotation_files  # noqa: PLC0415

    urls = {name: url for url, name in inputs.record_names().items()}
    return annotation_files(
        config.annotations,
        AnnotationSource.of(config.model, predictor.config, predictor.categories),
        output.url,
        lambda name: image_address(name, urls[name], config.image_prefix),
        after_errors=True,
    )
