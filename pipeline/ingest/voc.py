"""Pascal VOC as a `Listing`: an image list, an XML file of boxes per image, optional masks.

Everingham et al. 2010. VOC counts pixels from 1, and its boxes include their last pixel. Objects
marked difficult are neither trained on nor counted as misses, so they become crowd regions.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from model.images.decode import IMAGE_SUFFIXES
from model.structures import Category
from pipeline import storage
from pipeline.ingest.identifiers import number_names
from pipeline.ingest.listing import Annotation, ImageRecord, Listing, read_files
from pipeline.ingest.rejects import InvalidRecordError, Reject
from pipeline.ingest.voc_classes import name_classes
from pipeline.ingest.voc_masks import VocMasks, mask_versions
from pipeline.ingest.voc_xml import AnnotationFile, read_annotation_file

_FIRST_AREA_YEAR = 2010  # AP is the area under the curve from this challenge on
_MAX_NAME = 250  # bytes of a part of a path, without the extension
_CLASS_LIST_LINE = re.compile(r"\S+\s+-?[01]")


def read_voc(
    root_url: str, image_set: str, year: int, masks: bool = False, classes: Sequence[str] = ()
) -> Listing:
    """Read a VOC dataset.

    Args:
        root_url: the folder that holds Annotations, ImageSets and JPEGImages.
        image_set: name of a list in ImageSets/Main, or in ImageSets/Segmentation with masks.
        year: of the challenge; decides the evaluation protocol.
        masks: also read the objects' masks from SegmentationObject.
        classes: classes that will be selected; other names in the files become classes after
            them. Default: VOC's, or if most objects have other names, all names in the files.

    Raises:
        StorageError: there is no such list, or it names no image. A missing or damaged annotation
            file is not an error; its image is quarantined.
        ConfigError: no object is of one of ``classes``, but objects have a similar name.
    """
    root_url = storage.absolute(root_url)
    kind = "Segmentation" if masks else "Main"
    set_url = storage.join(root_url, "ImageSets", kind, f"{image_set}.txt")
    names, rejects, lines = _read_set(set_url)
    annotation_urls = [storage.join(root_url, "Annotations", f"{name}.xml") for name in names]
    fingerprint = hashlib.sha256(repr((masks, names, tuple(classes))).encode())
    ids = number_names(names)
    files: dict[str, AnnotationFile] = {}
    for name, data in zip(names, read_files(annotation_urls), strict=True):
        fingerprint.update(hashlib.sha256(data or b"").digest())
        try:
            files[name] = _parse(name, data)
        except InvalidRecordError as error:
            rejects.append(_reject_image(name, ids, error))
    class_names, numbered = name_classes(files.values(), set_url, classes)
    reader = _ImageReader(root_url, class_names, masks, numbered)
    images: list[ImageRecord] = []
    objects_listed = 0
    for name, file in files.items():
        image, object_rejects = reader.read(file, name, ids[name])
        images.append(image)
        rejects += object_rejects
        objects_listed += len(image.annotations) + len(object_rejects)
    if masks:
        fingerprint.update(mask_versions(root_url, names))
    return Listing(
        name=set_url,
        fingerprint=fingerprint.digest(),
        categories=tuple(Category(number, name) for name, number in reader.class_ids.items()),
        images=tuple(images),
        rejects=tuple(rejects),
        images_listed=lines,
        annotations_listed=objects_listed,
        protocol="voc_11_points" if year < _FIRST_AREA_YEAR else "voc_area",
    )


def _reject_image(name: str, ids: Mapping[str, int], error: InvalidRecordError) -> Reject:
    return Reject("image", f"Annotations/{name}.xml", ids[name], None, error.reason, error.detail)


def _parse(name: str, data: bytes | None) -> AnnotationFile:
    if data is not None:
        return read_annotation_file(data)
    if _CLASS_LIST_LINE.fullmatch(name):
        raise InvalidRecordError("invalid image name", f"{name[:80]!r}; is it a list of one class?")
    raise InvalidRecordError("missing annotation file")


def _read_set(url: str) -> tuple[list[str], list[Reject], int]:
    """Return the names in an image list, its unusable lines, and the number of lines."""
    try:
        text = storage.read_bytes(url).decode("utf-8-sig", "replace")
    except storage.MissingFileError as error:
        folder = url.rpartition("/")[0]
        stems = [PurePosixPath(file).stem for file in storage.list_files(folder, (".txt",))]
        # Lists with an underscore are those of a single class.
        available = ", ".join(stem for stem in stems if "_" not in stem) or "none"
        raise storage.MissingFileError(
            f"{url}: no such image list; available: {available}"
        ) from error
    entries = [line.strip().replace("\\", "/") for line in text.split("\n") if line.strip()]
    names: dict[str, None] = {}
    rejects = []
    for entry in entries:
        if not _is_name(entry):
            reason, detail = "invalid image name", f"{entry[:80]!r} in {url}"
            rejects.append(Reject("image", None, None, None, reason, detail))
        elif entry in names:
            rejects.append(Reject("image", entry, None, None, "image listed twice", f"in {url}"))
        else:
            names[entry] = None
    if not names:
        raise storage.StorageError(f"{url}: lists no images; it needs one image name per line")
    return list(names), rejects, len(entries)


def _is_name(entry: str) -> bool:
    """Whether a line names a file below the dataset's folders."""
    parts = entry.split("/")
    return (
        entry.isprintable()
        and "\ufffd" not in entry
        and all(part not in ("", ".", "..") for part in parts)
        and all(len(part.encode()) <= _MAX_NAME for part in parts)
    )


class _ImageReader:
    """Reads the images of a dataset from their XML files.

    Args:
        root_url: the folder of the dataset.
        class_names: the classes, in order.
        masks: whether objects have masks.
        classes_are_numbered: whether class masks number the classes in this order.
    """

    def __init__(
        self, root_url: str, class_names: Sequence[str], masks: bool, classes_are_numbered: bool
    ) -> None:
        self.root_url = root_url
        self.images_url = storage.join(root_url, "JPEGImages")
        self.class_ids = {name: number for number, name in enumerate(class_names, 1)}
        self.masks = masks
        self.classes_are_numbered = classes_are_numbered
        self.files = {
            url[len(self.images_url) :].strip("/")
            for url in storage.list_files(self.images_url, IMAGE_SUFFIXES)
        }

    def read(
        self, file: AnnotationFile, name: str, image_id: int
    ) -> tuple[ImageRecord, list[Reject]]:
        """Return an image with its usable objects, and the unusable ones."""
        file_name = self._find_file(file.stated_file, name)
        annotations: list[Annotation] = []
        errors = list(file.errors)
        for annotation in file.annotations:
            class_name = annotation["category_id"]
            if class_name in self.class_ids:
                annotations.append({**annotation, "category_id": self.class_ids[class_name]})
                continue
            detail = f"{class_name[:40]!r} is not one of the {len(self.class_ids)} classes"
            errors.append((annotation["id"], InvalidRecordError("unknown category", detail)))
        rejects = [
            Reject("annotation", file_name, image_id, number, error.reason, error.detail)
            for number, error in errors
        ]
        object_count = len(file.annotations) + len(file.errors)
        record = ImageRecord(
            image_id=image_id,
            file_name=file_name,
            size=file.size,
            annotations=tuple(annotations),
            images_url=self.images_url,
            mask_source=VocMasks(self.root_url, name, object_count, self.classes_are_numbered)
            if self.masks
            else None,
        )
        return record, rejects

    def _find_file(self, stated: str, name: str) -> str:
        """Return the file of an image, relative to the folder of images.

        The ``<filename>`` often lacks its extension or names another file; the name in the list
        decides then.
        """
        folder = PurePosixPath(name).parent
        if stated and stated.startswith(PurePosixPath(name).name):
            candidate = str(folder / stated)
            if candidate in self.files:
                return candidate
        candidates = [f"{name}{suffix}" for suffix in ("", *IMAGE_SUFFIXES)]
        candidates += [f"{name}{suffix.upper()}" for suffix in IMAGE_SUFFIXES]
        return next((file for file in candidates if file in self.files), f"{name}.jpg")
