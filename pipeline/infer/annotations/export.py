"""The detections of a whole output folder as annotations."""

from collections.abc import Callable, Iterable

from pipeline.config.annotations import AnnotationsConfig
from pipeline.infer.annotations.label_studio import image_address
from pipeline.infer.annotations.source import AnnotationSource
from pipeline.infer.annotations.writer import annotation_files
from pipeline.infer.detection_files import iterate_detection_rows


def write_annotations(
    config: AnnotationsConfig,
    source: AnnotationSource,
    image_url: Callable[[str], str | None],
    predictions_url: str,
    output_urls: Iterable[str],
) -> None:
    """Write the files of annotations, reading one output file at a time.

    Args:
        config: formats and minimum score.
        source: the detector.
        image_url: returns the URL of an image by its name; None if it is no file of its own.
        predictions_url: folder to write to.
        output_urls: the files of detections.

    Raises:
        StorageError: a file cannot be read or written.
    """

    def address(name: str) -> str:
        return image_address(name, image_url(name) or name, config.image_prefix)

    with annotation_files(config.formats, source, predictions_url, address) as add:
        for url in output_urls:
            for row in iterate_detection_rows(url):
                add(row.above(config.min_score))
