"""Batch inference without a detector: a row holds the content of the image file as its label."""

from pipeline import storage
from pipeline.infer.detection_files import (
    SCHEMA_VERSION,
    read_detection_rows,
    write_detection_rows,
)
from pipeline.infer.detection_rows import DetectionRow
from pipeline.infer.image_plan import plan_images
from pipeline.infer.inputs import read_images
from pipeline.infer.ledger import LedgerEntry, chunk_key, output_url, write_entry
from pipeline.infer.output_cleanup import clean_output
from pipeline.infer.sources.folder import FolderImages


class KilledError(Exception):
    """Stands for a kill -9 of the job."""


def key_of(model="model"):
    return lambda chunk: chunk_key(chunk, model, 0.05)


def plan(url, output, images_per_chunk=4, bit_depth=None, model="model"):
    """Plan a job on a folder, or on the source that a function returns."""
    source = url() if callable(url) else FolderImages(str(url), str(output))
    return plan_images(source, str(output), images_per_chunk, bit_depth, key_of(model))


def input_images(url, bit_depth=None):
    """Return every image of a folder, as it is read for prediction."""
    chunks = plan(url, storage.join(str(url), "no-output"), 99, bit_depth).unfinished()
    return [image for chunk in chunks for image in read_images(chunk)]


def run_job(url, output, images_per_chunk=4, model="model", kill_at=None, chunk_order=list):
    """Run a job; return the names of the images it predicted on.

    Args:
        url: of a folder, or a function that returns a source.
        kill_at: die when this many files were written, outputs and entries counted alike.
        chunk_order: reorders the list of unfinished chunks, as several workers do.
    """
    planned = plan(url, output, images_per_chunk, model=model)
    clean_output(planned, str(output), None, key_of(model))
    predicted, written = [], 0

    def count_or_die():
        nonlocal written
        if written == kill_at:
            raise KilledError
        written += 1

    chunks = chunk_order(list(planned.unfinished()))
    assert len(chunks) == planned.chunks
    assert sum(chunk.images for chunk in chunks) == planned.images
    for chunk in chunks:
        images = list(read_images(chunk))
        rows = [_row(image, model) for image in images]
        count_or_die()
        size = write_detection_rows(output_url(str(output), chunk.name), rows)
        predicted += chunk.files
        count_or_die()
        write_entry(
            str(output),
            LedgerEntry(
                name=chunk.name,
                key=key_of(model)(chunk),
                images=len(rows),
                failed=sum(row.error is not None for row in rows),
                objects=len(rows),
                size=size,
                model=model,
                files=chunk.files,
                versions=chunk.versions,
                image_ids=chunk.image_ids,
                id_range=chunk.id_range,
                source_ids=chunk.source_ids,
                has_given_ids=chunk.has_given_ids,
                schema=SCHEMA_VERSION,
            ),
        )
    return predicted


def _row(image, model):
    return DetectionRow(
        image_id=image.image_id,
        file_name=image.file_name,
        height=1,
        width=1,
        boxes=[[0.0, 0.0, 1.0, 1.0]],
        scores=[1.0],
        labels=[] if image.error else [int(image.encoded)],
        category_ids=[1],
        category_names=[model],
        masks_rle=None,
        error=image.error,
        source_image_id=image.source_id,
        input_version=image.version,
    )


def read_outputs(output):
    """Return every row in a folder, as a reader of all its Parquet files finds them."""
    urls = storage.list_files(str(output), (".parquet",))
    return [row for url in urls for row in read_detection_rows(url)]
