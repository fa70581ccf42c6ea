"""Pascal VOC as a `Listing`: an image list, an XML file of boxes per image, optional masks.

Everingham et al. 2010. VOC counts pixels from 1, and its boxes include their last pixel. Objects
marked difficult are neither trained on nor counted as misses, so they become crowd regions.
"""

import hashlib
import math
import re
import xml.etree.ElementTree as ET
from pathlib import PurePosixPath

from model.structures import Category, ImageSize
from pipeline import storage
from pipeline.ingest.listing import (
    Annotation,
    ImageRecord,
    Listing,
    image_id_from_name,
    read_files,
)
from pipeline.ingest.validate import InvalidRecordError, Reject
from pipeline.ingest.voc_masks import VocMasks, mask_sizes

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""In VOC's order: class masks number them from 1."""

_FIRST_AREA_YEAR = 2010  # AP is the area under the curve from this challenge on
_IDS = {name: number for number, name in enumerate(VOC_CLASSES, 1)}
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
_UNREADABLE = "unreadable annotation file"


def read_voc(root_url: str, image_set: str, year: int, masks: bool = False) -> Listing:
    """Read a VOC dataset.

    Args:
        root_url: the folder that holds Annotations, ImageSets and JPEGImages.
        image_set: name of a list in ImageSets/Main, or in ImageSets/Segmentation with masks.
        year: of the challenge; decides the evaluation protocol.
        masks: also read the objects' masks from SegmentationObject.

    Raises:
        StorageError: there is no such list, or it names no image. A missing or damaged annotation
            file is not an error; its image is quarantined.
    """
    kind = "Segmentation" if masks else "Main"
    set_url = storage.join(root_url, "ImageSets", kind, f"{image_set}.txt")
    names, rejects, lines = _read_set(set_url)
    annotation_urls = [storage.join(root_url, "Annotations", f"{name}.xml") for name in names]
    images: list[ImageRecord] = []
    fingerprint = hashlib.sha256(repr((masks, names)).encode())
    objects_listed = 0
    names_by_id: dict[int, str] = {}
    for name, data in zip(names, read_files(annotation_urls), strict=True):
        image_id = image_id_from_name(name)
        same_id = names_by_id.setdefault(image_id, name)
        fingerprint.update(hashlib.sha256(data or b"").digest())
        try:
            if same_id != name:
                raise InvalidRecordError("duplicate image id", f"{same_id} has the same id")
            if data is None:
                raise InvalidRecordError("missing annotation file")
            image, object_rejects = _read_image(data, name, image_id, root_url, masks)
        except InvalidRecordError as error:
            file = f"Annotations/{name}.xml"
            rejects.append(Reject("image", file, image_id, None, error.reason, error.detail))
            continue
        images.append(image)
        rejects += object_rejects
        objects_listed += len(image.annotations) + len(object_rejects)
    if masks:
        fingerprint.update(mask_sizes(root_url, names))
    return Listing(
        name=set_url,
        fingerprint=fingerprint.digest(),
        categories=tuple(Category(number, name) for name, number in _IDS.items()),
        images=tuple(images),
        rejects=tuple(rejects),
        images_listed=lines,
        annotations_listed=objects_listed,
        protocol="voc_11_points" if year < _FIRST_AREA_YEAR else "voc_area",
    )


def _read_set(url: str) -> tuple[list[str], list[Reject], int]:
    """Return the names in an image list, its unusable lines, and the number of lines."""
    try:
        lines = storage.read_bytes(url).decode("utf-8", "replace").split("\n")
    except storage.MissingFileError as error:
        folder = url.rpartition("/")[0]
        stems = [PurePosixPath(file).stem for file in storage.list_files(folder, (".txt",))]
        # Lists with an underscore are those of a single class.
        available = ", ".join(stem for stem in stems if "_" not in stem) or "none"
        raise storage.MissingFileError(
            f"{url}: no such image list; available: {available}"
        ) from error
    entries = [line.strip() for line in lines if line.strip()]
    names: dict[str, None] = {}
    rejects = []
    for entry in entries:
        if not _NAME.fullmatch(entry):
            reason, detail = "invalid image name", f"{entry[:80]!r} in {url}"
            rejects.append(Reject("image", None, None, None, reason, detail))
        elif entry in names:
            reason, detail = "image listed twice", f"in {url}"
            rejects.append(Reject("image", entry, image_id_from_name(entry), None, reason, detail))
        else:
            names[entry] = None
    if not names:
        raise storage.StorageError(f"{url}: lists no images; it needs one image name per line")
    return list(names), rejects, len(entries)


def _read_image(
    data: bytes, name: str, image_id: int, root_url: str, masks: bool
) -> tuple[ImageRecord, list[Reject]]:
    """Return the image of an XML file with its usable objects, and the unusable ones."""
    root = parse_annotation(data)
    try:
        height, width = (
            int(float(root.findtext(f"size/{side}", ""))) for side in ("height", "width")
        )
    except (ValueError, OverflowError):
        raise InvalidRecordError(_UNREADABLE, "its image size is missing or not a number") from None
    path = PurePosixPath(name)
    file_name = PurePosixPath(root.findtext("filename", "").strip()).name
    if PurePosixPath(file_name).stem != path.name:
        file_name = f"{path.name}.jpg"
    file_name = str(path.with_name(file_name))
    annotations: list[Annotation] = []
    rejects: list[Reject] = []
    elements = root.findall("object")
    for number, element in enumerate(elements, 1):
        try:
            annotations.append(_read_object(element, number))
        except InvalidRecordError as error:
            ids = (file_name, image_id, number)
            rejects.append(Reject("annotation", *ids, error.reason, error.detail))
    record = ImageRecord(
        image_id=image_id,
        file_name=file_name,
        size=ImageSize(height, width),
        annotations=tuple(annotations),
        images_url=storage.join(root_url, "JPEGImages"),
        mask_source=VocMasks(root_url, name, len(elements)) if masks else None,
    )
    return record, rejects


class _NoDoctypeBuilder(ET.TreeBuilder):
    """Refuses document type declarations, the only place where entities can be declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise InvalidRecordError(_UNREADABLE, f"it declares the document type {name[:40]}")


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
        raise InvalidRecordError(_UNREADABLE, str(error)) from None
    if root.tag != "annotation":
        detail = f"its root element is {root.tag[:40]}; expected annotation"
        raise InvalidRecordError(_UNREADABLE, detail)
    return root


def _read_object(element: ET.Element, number: int) -> Annotation:
    """Convert one object to COCO's format, with its box in continuous pixels from 0."""
    name = element.findtext("name", "").strip()
    # Not element.iter: the parts of a person have boxes too.
    x1, y1, x2, y2 = (
        _read_number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")
    )
    if name not in _IDS:
        detail = f"{name[:40]!r} is not one of VOC's {len(VOC_CLASSES)} classes"
        raise InvalidRecordError("unknown category", detail)
    box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
    return {
        "id": number,
        "category_id": _IDS[name],
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": int(_read_number(element, "difficult", "0") != 0),
    }


def _read_number(element: ET.Element, path: str, default: str = "") -> float:
    text = element.findtext(path, default)
    detail = f"{path} is {text[:40]!r}"
    try:
        value = float(text)
    except ValueError:
        raise InvalidRecordError("malformed annotation", detail) from None
    if not math.isfinite(value):
        raise InvalidRecordError("non-finite coordinates", detail)
    return value
