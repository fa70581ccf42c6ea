"""Detections of a whole output folder in COCO's results format, for tools that read it."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.infer.detection_files import iterate_detection_rows
from pipeline.infer.detection_rows import DetectionRow, coco_results
from pipeline.infer.json_list import JsonList
from pipeline.output_layout import COCO_IMAGES_FILE, COCO_RESULTS_FILE
from pipeline.shards.class_match import ClassMatch

logger = logging.getLogger(__name__)


def write_coco_files(
    predictions_url: str, output_urls: Iterable[str], match: ClassMatch | None = None
) -> None:
    """Write all detections as one JSON list, and the images of its ids as another.

    Neither the rows nor the lists are held in memory: one output file is read at a time.

    Args:
        predictions_url: folder to write to.
        output_urls: the files of detections.
        match: the classes of the detector in the numbering of the input; detections of classes
            that the input lacks are left out. None keeps the category ids of the detector.

    Raises:
        StorageError: a file cannot be read or written.
    """
    left_out = 0
    with tempfile.TemporaryDirectory(prefix="coco-") as scratch:
        results, images = Path(scratch) / COCO_RESULTS_FILE, Path(scratch) / COCO_IMAGES_FILE
        with JsonList(results) as add_result, JsonList(images) as add_image:
            for row in _rows(output_urls):
                add_image(_coco_image(row))
                found = _results(row, match)
                left_out += len(row.scores) - len(found)
                for result in found:
                    add_result(result)
        # The images first: a reader that finds results finds their images.
        storage.upload_file(images, storage.join(predictions_url, COCO_IMAGES_FILE))
        storage.upload_file(results, storage.join(predictions_url, COCO_RESULTS_FILE))
    if left_out:
        logger.warning(
            "%s has no detections of classes that the input lacks: %d are left out",
            COCO_RESULTS_FILE,
            left_out,
        )


def delete_coco_files(predictions_url: str) -> None:
    """Delete the files of an earlier job: they do not agree with what this one writes."""
    for name in (COCO_RESULTS_FILE, COCO_IMAGES_FILE):
        storage.delete(storage.join(predictions_url, name))


def _rows(output_urls: Iterable[str]) -> Iterator[DetectionRow]:
    for url in output_urls:
        yield from iterate_detection_rows(url)


def _results(row: DetectionRow, match: ClassMatch | None) -> list[dict[str, Any]]:
    results = coco_results(row)
    if match is None:
        return results
    lacking = {category.id for category in match.without_objects}
    return [each for each in match.renumber(results) if each["category_id"] not in lacking]


def _coco_image(row: DetectionRow) -> dict[str, Any]:
    image: dict[str, Any] = {"id": row.image_id, "file_name": row.file_name}
    if row.error is not None:
        return image | {"error": row.error}
    image |= {"height": row.height, "width": row.width}
    return image if row.source_image_id is None else image | {"source_id": row.source_image_id}
