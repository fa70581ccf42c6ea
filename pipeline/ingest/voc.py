"""Pascal VOC: lists of images, an XML file of boxes for each, and for some a picture of masks.

Everingham et al. 2010. VOC counts pixels from 1 and its boxes include their last pixel. Objects
marked difficult are neither trained on nor held against a detector, so they become crowd regions.
"""

import hashlib
import math
import re
import xml.etree.ElementTree as ET
from pathlib import PurePosixPath

from model.structures import Category, ImageSize
from pipeline import storage
from pipeline.ingest.listing import Annotation, ImageRecord, Listing, image_id_from_name, read_files
from pipeline.ingest.validate import AnnotationError, Reject
from pipeline.ingest.voc_masks import VocMasks, mask_sizes

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""In VOC's order, which is that of the numbers in its pictures of classes, from 1."""

_BY_AREA_SINCE = 2010
_IDS = {name: number for number, name in enumerate(VOC_CLASSES, 1)}
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")


def read_voc(root_url: str, image_set: str, year: int, masks: bool = False) -> Listing:
    """What a VOC data set lists.

    Args:
        root_url: the folder that holds Annotations, ImageSets and JPEGImages.
        image_set: name of a list in ImageSets/Main, or in ImageSets/Segmentation with masks.
        year: of the challenge; says how the data set is measured.
        masks: also read the objects' masks, in SegmentationObject.

    Raises:
        StorageError: no such list, or it names no image; a file that is missing or damaged is no
            error but a reject.
    """
    kind = "Segmentation" if masks else "Main"
    set_url = storage.join(root_url, "ImageSets", kind, f"{image_set}.txt")
    names, rejects, lines = _read_set(set_url)
    annotation_urls = [storage.join(root_url, "Annotations", f"{name}.xml") for name in names]
    images: list[ImageRecord] = []
    fingerprint = hashlib.sha256(repr((masks, names)).encode())
    objects_listed = 0
    ids: dict[int, str] = {}
    for name, data in zip(names, read_files(annotation_urls), strict=True):
        image_id = image_id_from_name(name)
        other = ids.setdefault(image_id, name)
        fingerprint.update(hashlib.sha256(data or b"").digest())
        try:
            if other != name:
                raise AnnotationError("duplicate image id", f"the id belongs to {other}")
            if data is None:
                raise AnnotationError("missing annotation file")
            image, refused = _read_image(data, name, image_id, root_url, masks)
        except AnnotationError as error:
            file = f"Annotations/{name}.xml"
            rejects.append(Reject("image", file, image_id, None, error.reason, error.detail))
            continue
        images.append(image)
        rejects += refused
        objects_listed += len(image.annotations) + len(refused)
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
        protocol="voc_11_points" if year < _BY_AREA_SINCE else "voc_area",
    )


def _read_set(url: str) -> tuple[list[str], list[Reject], int]:
    """The names in a list of images, the lines that are none, and how many lines there are."""
    try:
        lines = storage.read_bytes(url).decode("utf-8", "replace").split("\n")
    except storage.MissingFileError as error:
        folder = url.rpartition("/")[0]
        there = [PurePosixPath(file).stem for file in storage.list_files(folder, (".txt",))]
        # Those with an underscore are of one class.
        sets = ", ".join(name for name in there if "_" not in name) or "none"
        raise storage.MissingFileError(f"{url}: no such list; there are: {sets}") from error
    entries = [line.strip() for line in lines if line.strip()]
    names: dict[str, None] = {}
    rejects = []
    for entry in entries:
        if not _NAME.fullmatch(entry):
            reason, detail = "malformed image record", f"{entry[:80]!r} in {url}"
            rejects.append(Reject("image", None, None, None, reason, detail))
        elif entry in names:
            reject = Reject(
                "image", entry, image_id_from_name(entry), None, "listed twice", f"in {url}"
            )
            rejects.append(reject)
        else:
            names[entry] = None
    if not names:
        raise storage.StorageError(f"{url}: names no image; it must hold one name a line")
    return list(names), rejects, len(entries)


def _read_image(
    data: bytes, name: str, image_id: int, root_url: str, masks: bool
) -> tuple[ImageRecord, list[Reject]]:
    """The image that an XML file describes, and the objects in it that cannot be used."""
    root = parse_annotation(data)
    try:
        height, width = (int(float(root.findtext(f"size/{key}", ""))) for key in _SIDES)
    except (ValueError, OverflowError):
        raise AnnotationError("unreadable annotation file", "no size, or not in numbers") from None
    named = PurePosixPath(root.findtext("filename", "").strip()).name
    own = PurePosixPath(name)
    file_name = (
        str(own.with_name(named)) if PurePosixPath(named).stem == own.name else f"{name}.jpg"
    )
    annotations: list[Annotation] = []
    refused: list[Reject] = []
    elements = root.findall("object")
    for number, element in enumerate(elements, 1):
        try:
            annotations.append(_read_object(element, number))
        except AnnotationError as error:
            reject = Reject("annotation", file_name, image_id, number, error.reason, error.detail)
            refused.append(reject)
    record = ImageRecord(
        image_id=image_id,
        file_name=file_name,
        size=ImageSize(height, width),
        annotations=tuple(annotations),
        images_url=storage.join(root_url, "JPEGImages"),
        mask_files=VocMasks(root_url, name, len(elements)) if masks else None,
    )
    return record, refused


_SIDES = ("height", "width")


class _PlainTree(ET.TreeBuilder):
    """Refuses a document type: entities, harmful or not, are declared nowhere else."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise AnnotationError("unreadable annotation file", f"it declares a document type {name}")


def parse_annotation(data: bytes) -> ET.Element:
    """The root of an annotation file from outside.

    Raises:
        AnnotationError: not XML, not a VOC annotation, or with a document type.
    """
    parser = ET.XMLParser(target=_PlainTree())
    try:
        parser.feed(data)
        root: ET.Element = parser.close()
    except (ET.ParseError, ValueError, LookupError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError("unreadable annotation file", str(error)) from None
    if root.tag != "annotation":
        raise AnnotationError("unreadable annotation file", f"its root is {root.tag[:40]}")
    return root


def _read_object(element: ET.Element, number: int) -> Annotation:
    name = element.findtext("name", "").strip()
    # Not element.iter: a person's parts have boxes of their own.
    corners = [_number(element, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    if name not in _IDS:
        raise AnnotationError("unknown category", f"class {name[:40]!r}")
    x1, y1, x2, y2 = corners
    box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
    return {
        "id": number,
        "category_id": _IDS[name],
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": int(_number(element, "difficult", "0") != 0),
    }


def _number(element: ET.Element, path: str, default: str = "") -> float:
    text = element.findtext(path, default)
    try:
        value = float(text)
    except ValueError:
        raise AnnotationError("malformed annotation", f"{path} is {text[:40]!r}") from None
    if not math.isfinite(value):
        raise AnnotationError("non-finite coordinates", f"{path} is {text[:40]!r}")
    return value
