"""Pascal VOC's masks: one picture of object numbers and one of classes for each image.

The number of a pixel in SegmentationObject is the place of its object in the XML file, from 1; in
SegmentationClass it is the class. 0 is background, and 255 is the border between objects, which
belongs to none.
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
from pipeline.ingest.validate import AnnotationError, Reject

_OBJECTS, _CLASSES = "SegmentationObject", "SegmentationClass"
_BORDER = 255
_LEAST_INSIDE = 0.5  # share of a mask in its box; less tells that the numbers are mixed up


@dataclass(frozen=True)
class VocMasks:
    """The two pictures of an image.

    Args:
        root_url: the data set's folder.
        name: of the image, without ending.
        objects: in its XML file, with those that cannot be used.
    """

    root_url: str
    name: str
    objects: int

    def complete(self, image: ImageRecord) -> tuple[tuple[Annotation, ...], tuple[Reject, ...]]:
        """The annotations with their masks; an object without pixels keeps its box alone.

        Raises:
            AnnotationError: a picture is missing, damaged or of another size.
            StorageError: the store does not answer.
        """
        numbers = self._read(_OBJECTS, image.size)
        classes = self._read(_CLASSES, image.size)
        annotations: list[Annotation] = []
        rejects: list[Reject] = []

        def refuse(number: int, reason: str, detail: str) -> None:
            names = (image.file_name, image.image_id, number)
            rejects.append(Reject("annotation", *names, reason, detail))

        for annotation in image.annotations:
            pixels = numbers == annotation["id"]
            if not pixels.any():
                annotations.append(annotation)
                continue
            drawn = int(np.bincount(classes[pixels]).argmax())
            if drawn != annotation["category_id"]:
                detail = f"class {annotation['category_id']} in the XML file, {drawn} in the mask"
                refuse(annotation["id"], "mask of another class", detail)
                continue
            inside = _share_inside(pixels, annotation["bbox"])
            if inside < _LEAST_INSIDE:
                detail = f"{inside:.0%} of its pixels are in the box"
                refuse(annotation["id"], "mask of another object", detail)
                continue
            mask = mask_annotation(pixels, 0, 0, image.size)
            # The box is the annotator's: it also holds pixels of the border.
            annotations.append(annotation | mask | {"bbox": annotation["bbox"]})
        for number in np.unique(numbers).tolist():
            if number > self.objects and number != _BORDER:
                refuse(number, "mask without an object", f"the XML file has {self.objects}")
        return tuple(annotations), tuple(rejects)

    def _read(self, folder: str, size: ImageSize) -> NDArray[np.uint8]:
        file = f"{folder}/{self.name}.png"
        try:
            data = storage.read_bytes(storage.join(self.root_url, file))
        except storage.MissingFileError:
            raise AnnotationError("missing mask file", file) from None
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
                if (picture.height, picture.width) != size or picture.mode not in ("P", "L"):
                    detail = f"{file}: {picture.mode} {picture.width}x{picture.height}"
                    raise AnnotationError("mask file does not fit its image", detail)
                return np.asarray(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if isinstance(error, AnnotationError):
                raise
            raise AnnotationError("unreadable mask file", f"{file}: {error}") from None


def _share_inside(pixels: NDArray[np.bool_], box: Sequence[float]) -> float:
    """The share of the pixels whose centres are in the box, x y w h."""
    rows, columns = np.nonzero(pixels)
    x, y, width, height = box
    inside = (abs(columns + 0.5 - x - width / 2) <= width / 2) & (
        abs(rows + 0.5 - y - height / 2) <= height / 2
    )
    return float(inside.mean())


def mask_sizes(root_url: str, names: Sequence[str]) -> bytes:
    """Sizes in bytes of the images' pictures: differs where they were drawn anew."""
    sizes = [storage.file_sizes(storage.join(root_url, folder)) for folder in (_OBJECTS, _CLASSES)]
    below = {
        url.removeprefix(root_url).strip("/"): n for found in sizes for url, n in found.items()
    }
    wanted = [
        [below.get(f"{folder}/{name}.png", -1) for folder in (_OBJECTS, _CLASSES)] for name in names
    ]
    return json.dumps(wanted).encode()
