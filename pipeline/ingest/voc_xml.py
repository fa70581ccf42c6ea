"""Read untrusted VOC annotation files: XML with the boxes of an image."""

import math
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import PurePosixPath

from model.structures import ImageSize
from pipeline.ingest.listing import Annotation
from pipeline.ingest.rejects import InvalidRecordError

UNREADABLE = "unreadable annotation file"

_MAX_SIDE = 2**31 - 1


class _NoDoctypeBuilder(ET.TreeBuilder):
    """Refuses document type declarations, the only place where entities can be declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise InvalidRecordError(UNREADABLE, f"it declares the document type {name[:40]}")


def parse_annotation(data: bytes) -> ET.Element:
    """Parse an untrusted VOC annotation file to its root element.

    Raises:
        InvalidRecordError: not XML, not a VOC annotation, or it declares a document type.
    """
    parser = ET.XMLParser(target=_NoDoctypeBuilder())
    try:
        parser.feed(data)
        root: ET.Element = parser.close()
    except (ET.ParseError, ValueError, LookupError) as error:
        raise InvalidRecordError(UNREADABLE, str(error)) from None
    if root.tag != "annotation":
        detail = f"its root element is {root.tag[:40]}; expected annotation"
        raise InvalidRecordError(UNREADABLE, detail)
    return root


@dataclass(frozen=True)
class AnnotationFile:
    """The content of an annotation file.

    Args:
        stated_file: file name of the image; "" if missing.
        size: of the image; None if missing or zero, as many tools write.
        annotations: the usable objects; ``category_id`` is the name of the class.
        errors: number of each unusable object, and why.
    """

    stated_file: str
    size: ImageSize | None
    annotations: tuple[Annotation, ...]
    errors: tuple[tuple[int, InvalidRecordError], ...]


def read_annotation_file(data: bytes) -> AnnotationFile:
    """Read an annotation file.

    Raises:
        InvalidRecordError: the file is unreadable.
    """
    root = parse_annotation(data)
    annotations, errors = [], []
    for number, element in enumerate(root.findall("object"), 1):
        try:
            annotations.append(_read_object(element, number))
        except InvalidRecordError as error:
            errors.append((number, error))
    stated = (root.findtext("filename") or "").strip().replace("\\", "/")
    name = PurePosixPath(stated).name
    return AnnotationFile(name, _read_size(root), tuple(annotations), tuple(errors))


def _read_size(root: ET.Element) -> ImageSize | None:
    """Return the annotated size; None if it is missing or zero, as many tools write.

    Raises:
        InvalidRecordError: the size is not a number.
    """
    sides = []
    for side in ("height", "width"):
        text = (root.findtext(f"size/{side}") or "0").strip()
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number <= _MAX_SIDE:
            raise InvalidRecordError(UNREADABLE, f"its {side} is {text[:40]!r}, not a number")
        sides.append(int(number))
    return ImageSize(*sides) if all(sides) else None


def _read_object(element: ET.Element, number: int) -> Annotation:
    """Convert one object to COCO's format, with its box in continuous pixels from 0.

    Args:
        element: the object.
        number: of the object in its file, from 1.

    Returns:
        The annotation; its ``category_id`` is the name of its class.

    Raises:
        InvalidRecordError: the object must be quarantined.
    """
    # Not element.iter: the parts of a person have boxes too.
    x1, y1, x2, y2 = (
        _read_number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")
    )
    box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
    return {
        "id": number,
        "category_id": (element.findtext("name") or "").strip(),
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": int(_read_number(element, "difficult", "0") != 0),
    }


def _read_number(element: ET.Element, path: str, default: str = "") -> float:
    text = element.findtext(path) or default
    detail = f"{path} is {text[:40]!r}"
    try:
        value = float(text)
    except ValueError:
        raise InvalidRecordError("malformed annotation", detail) from None
    if not math.isfinite(value):
        raise InvalidRecordError("non-finite coordinates", detail)
    return value
