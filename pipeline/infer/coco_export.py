"""Detections of a whole output folder in COCO's results format, for tools that read it."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.infer.detection_files import read_detection_rows
from pipeline.infer.detection_rows import DetectionRow, coco_results
from pipeline.infer.json_list import JsonList
from pipeline.output_layout import COCO_IMAGES_FILE, COCO_RESULTS_FILE


def write_coco_files(predictions_url: str, output_urls: Iterable[str]) -> None:
    """Write all detections as one JSON list, and the images of its ids as another.

    Neither the rows nor the lists are held in memory: one output file is read at a time.

    Args:
        predictions_url: folder to write to.
        output_urls: the files of detections.

    Raises:
        StorageError: a file cannot be read or written.
    """
    with tempfile.TemporaryDirectory(prefix="coco-") as scratch:
        results, images = Path(scratch) / COCO_RESULTS_FILE, Path(scratch) / COCO_IMAGES_FILE
        with JsonList(results) as add_result, JsonList(images) as add_image:
            for row in _rows(output_urls):
                add_image(_coco_image(row))
                for result in coco_results(row):
                    add_result(result)
        # The images first: a reader that finds results finds their images.
        storage.upload_file(images, storage.join(predictions_url, COCO_IMAGES_FILE))
        storage.upload_file(results, storage.join(predictions_url, COCO_RESULTS_FILE))


def delete_coco_files(predictions_url: str) -> None:
    """Delete the files of an earlier job: they do not agree with what this one writes."""
    for name in (COCO_RESULTS_FILE, COCO_IMAGES_FILE):
        storage.delete(storage.join(predictions_url, name))


def _rows(output_urls: Iterable[str]) -> Iterator[DetectionRow]:
    for url in output_urls:
        yield from read_detection_rows(url)


def _coco_image(row: DetectionRow) -> dict[str, Any]:
    image: dict[str, Any] = {"id": row.image_id, "file_name": row.file_name}
    if row.error is not None:
        return image | {"error": row.error}
    image |= {"height": row.height, "width": row.width}
    return image if row.source_image_id is None else image | {"source_id": row.source_image_id}
