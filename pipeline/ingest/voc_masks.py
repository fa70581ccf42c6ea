"""Pascal VOC masks: for each image, one PNG of object numbers and one of class numbers.

A pixel of SegmentationObject holds the number of its object, counted from 1 in the order of the XML
file; a pixel of SegmentationClass holds its class. 0 is background, and 255 is the border between
objects, which belongs to none.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.structures import ImageSize
from pipeline import storage
from pipeline.ingest.instance_masks import mask_annotation
from pipeline.ingest.listing import Annotation, ImageRecord
from pipeline.ingest.rejects import InvalidRecordError, Reject
from pipeline.storage.versions import file_versions

_FOLDERS = ("SegmentationObject", "SegmentationClass")
_BORDER = 255
_MIN_SHARE_INSIDE = 0.5  # of a mask's pixels in its box; less means that numbers are mixed up


@dataclass(frozen=True)
class VocMasks:
    """The two mask files of an image.

    Args:
        root_url: the dataset's folder.
        name: of the image, without extension.
        object_count: number of objects in the XML file, including unusable ones.
        classes_are_numbered: whether class masks number the dataset's classes in its order, so
            that they can be compared with the XML file.
    """

    root_url: str
    name: str
    object_count: int
    classes_are_numbered: bool = True

    def add_masks(self, image: ImageRecord) -> tuple[tuple[Annotation, ...], tuple[Reject, ...]]:
        """Return the annotations with masks; an object without mask pixels keeps its box alone.

        Raises:
            InvalidRecordError: a mask file is missing, damaged or of another size.
            StorageError: the store cannot be read.
        """
        if image.size is None:
            raise ValueError(f"{image.file_name} is not loaded: it has no size")
        numbers, classes = (self._read(folder, image.size) for folder in _FOLDERS)
        annotations: list[Annotation] = []
        rejects: list[Reject] = []

        def reject(number: int, reason: str, detail: str) -> None:
            ids = (image.file_name, image.image_id, number)
            rejects.append(Reject("annotation", *ids, reason, detail))

        for annotation in image.annotations:
            number, category = annotation["id"], annotation["category_id"]
            pixels = numbers == number
            if not pixels.any():
                annotations.append(annotation)
                continue
            mask_class = int(np.bincount(classes[pixels]).argmax())
            if self.classes_are_numbered and mask_class != category:
                detail = f"class {category} in the XML file, class {mask_class} in the mask file"
                reject(number, "mask class differs from annotation", detail)
                continue
            inside = _share_inside(pixels, annotation["bbox"])
            if inside < _MIN_SHARE_INSIDE:
                detail = f"only {inside:.0%} of the mask's pixels are in the box"
                reject(number, "mask outside its box", detail)
                continue
            mask = mask_annotation(pixels, 0, 0, image.size)
            # Keep the annotator's box, which also encloses border pixels.
            annotations.append(annotation | mask | {"bbox": annotation["bbox"]})
        for number in np.unique(numbers).tolist():
            if number > self.object_count and number != _BORDER:
                detail = f"object {number}, but the XML file has {self.object_count} objects"
                reject(number, "mask without an object", detail)
        return tuple(annotations), tuple(rejects)

    def _read(self, folder: str, size: ImageSize) -> NDArray[np.uint8]:
        file = f"{folder}/{self.name}.png"
        try:
            data = storage.read_bytes(storage.join(self.root_url, file))
        except storage.MissingFileError:
            raise InvalidRecordError("missing mask file", file) from None
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                if (image.height, image.width) != size or image.mode not in ("P", "L"):
                    detail = (
                        f"{file} is {image.width}x{image.height}, mode {image.mode}; expected "
                        f"{size.width}x{size.height}, mode P or L"
                    )
                    raise InvalidRecordError("mask file of wrong size or mode", detail)
                return np.asarray(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise InvalidRecordError("unreadable mask file", f"{file}: {error}") from None


def _share_inside(pixels: NDArray[np.bool_], box: Sequence[float]) -> float:
    """Return the share of the pixels whose centers are in the box, x y w h."""
    rows, columns = np.nonzero(pixels)
    x, y, width, height = box
    inside = (abs(columns + 0.5 - x - width / 2) <= width / 2) & (
        abs(rows + 0.5 - y - height / 2) <= height / 2
    )
    return float(inside.mean())


def mask_versions(root_url: str, names: Sequence[str]) -> bytes:
    """Return the versions of the images' mask files as JSON, to detect changed masks."""
    by_file: dict[str, str] = {}
    for folder in _FOLDERS:
        url = storage.join(root_url, folder)
        for file, version in file_versions(url).items():
            by_file[f"{folder}/{file[len(url) :].strip('/')}"] = version
    versions = [[by_file.get(f"{folder}/{name}.png", "") for folder in _FOLDERS] for name in names]
    return json.dumps(versions).encode()
