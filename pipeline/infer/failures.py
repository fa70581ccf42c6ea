"""The list of the images that could not be read."""

import json
from collections.abc import Iterable

from pipeline import storage
from pipeline.infer.detection_files import iterate_errors
from pipeline.storage.scratch import scratch_folder

FAILURES_FILE = "failed.jsonl"


def write_failures(predictions_url: str, output_urls: Iterable[str]) -> None:
    """Write one line per unreadable image, with the reason; one output is read at a time.

    Args:
        predictions_url: folder to write to.
        output_urls: the files of detections that have such images.

    Raises:
        StorageError: a file cannot be read or written.
    """
    with scratch_folder("failures") as folder:
        path = folder / FAILURES_FILE
        with path.open("w", encoding="utf-8") as file:
            for url in output_urls:
                for image_id, name, error in iterate_errors(url):
                    line = {"image_id": image_id, "file_name": name, "error": error}
                    file.write(json.dumps(line) + "\n")
        storage.upload_file(path, storage.join(predictions_url, FAILURES_FILE))
