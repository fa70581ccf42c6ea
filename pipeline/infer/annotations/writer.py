"""Write the annotations of many images, one image at a time, in the formats that are asked for."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.structures import ImageSize
from pipeline import storage
from pipeline.config.annotations import AnnotationFormat
from pipeline.infer.annotations.coco import coco_annotations, coco_categories, coco_image
from pipeline.infer.annotations.label_studio import label_studio_task, labeling_interface
from pipeline.infer.annotations.mask_polygons import Outline
from pipeline.infer.annotations.source import AnnotationSource
from pipeline.infer.detection_rows import DetectionRow
from pipeline.infer.json_list import JsonList
from pipeline.output_layout import ANNOTATION_FILES
from pipeline.shards.decoding import UPRIGHT_KEY
from pipeline.shards.run_lengths import run_ends

AddRow = Callable[[DetectionRow], None]
"""Adds an image; one that could not be read is left out."""


@contextlib.contextmanager
def annotation_files(
    formats: Sequence[AnnotationFormat],
    source: AnnotationSource,
    folder_url: str,
    image_url: Callable[[str], str],
    after_errors: bool = False,
) -> Iterator[AddRow]:
    """Collect annotations in a ``with`` block and write their files at its end.

    Args:
        formats: what to write; nothing if it is empty.
        source: what makes the annotations.
        folder_url: folder of the files, see `ANNOTATION_FILES`.
        image_url: returns the address of an image by its file name, for Label Studio.
        after_errors: whether they are written after an error too, with what was added until then.

    Raises:
        StorageError: a file cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="annotations-") as scratch:
        folder = Path(scratch)
        complete = False
        try:
            with contextlib.ExitStack() as stack:
                writers = [
                    stack.enter_context(_WRITERS[each](source, folder, image_url))
                    for each in dict.fromkeys(formats)
                ]

                def add(row: DetectionRow) -> None:
                    if row.error is None and writers:
                        outlines = _outlines(row)
                        for write in writers:
                            write(row, outlines)

                yield add
            complete = True
        finally:
            if complete or after_errors:
                for name in (name for each in formats for name in ANNOTATION_FILES[each]):
                    storage.upload_file(folder / name, storage.join(folder_url, name))


_AddOutlines = Callable[[DetectionRow, Sequence[Outline] | None], None]


@contextlib.contextmanager
def _coco(
    source: AnnotationSource, folder: Path, _image_url: Callable[[str], str]
) -> Iterator[_AddOutlines]:
    images, annotations = folder / "images.json", folder / "objects.json"
    count = 0
    try:
        with JsonList(images) as add_image, JsonList(annotations) as add_annotation:

            def add(row: DetectionRow, outlines: Sequence[Outline] | None) -> None:
                nonlocal count
                add_image(coco_image(row))
                for annotation in coco_annotations(row, outlines, count + 1):
                    add_annotation(annotation)
                    count += 1

            yield add
    finally:
        head = {
            "info": {"description": f"predictions of {source.model}", UPRIGHT_KEY: True},
            "licenses": [],
            "categories": coco_categories(source.categories, source.keypoint_names),
        }
        _write_document(folder / ANNOTATION_FILES["coco"][0], head, (images, annotations))


@contextlib.contextmanager
def _label_studio(
    source: AnnotationSource, folder: Path, image_url: Callable[[str], str]
) -> Iterator[_AddOutlines]:
    tasks, interface = ANNOTATION_FILES["label_studio"]
    text = labeling_interface(source.class_names, source.has_masks)
    (folder / interface).write_text(text, encoding="utf-8")
    with JsonList(folder / tasks) as add_task:
        yield lambda row, outlines: add_task(
            label_studio_task(row, outlines, image_url(row.file_name), source.model)
        )


_WRITERS = {"coco": _coco, "label_studio": _label_studio}


def _write_document(path: Path, head: dict[str, Any], lists: tuple[Path, Path]) -> None:
    """Write a COCO document from its short entries and the files of its two long lists."""
    with path.open("wb") as file:
        file.write(json.dumps(head).encode()[:-1])
        for name, part in zip(("images", "annotations"), lists, strict=True):
            file.write(f', "{name}": '.encode())
            with part.open("rb") as content:
                shutil.copyfileobj(content, file)
        file.write(b"}\n")


def _outlines(row: DetectionRow) -> list[Outline] | None:
    if row.masks_rle is None:
        return None
    return [Outline.of(_bitmap(mask)) for mask in row.masks_rle]


def _bitmap(mask: dict[str, Any]) -> NDArray[np.uint8]:
    size = ImageSize(*mask["size"])
    lengths = np.diff(run_ends(mask["counts"], size), prepend=0)
    values = (np.arange(len(lengths)) % 2).astype(np.uint8)
    return np.repeat(values, lengths).reshape(size.width, size.height).T
