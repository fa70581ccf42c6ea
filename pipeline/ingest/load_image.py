"""Read one image of a listing, and decide how its stored pixels are to be turned."""

from dataclasses import dataclass, replace

from model.images.decode import (
    STORED,
    DecodeError,
    decode_image,
    exif_orientation,
    stored_size,
    upright_size,
)
from model.structures import ImageSize
from pipeline import storage
from pipeline.ingest.listing import Annotation, ImageRecord
from pipeline.ingest.rejects import InvalidRecordError, Reject
from pipeline.shards.decoding import Decoding

_UNREADABLE = "truncated or unreadable image"


@dataclass(frozen=True)
class ImageGeometry:
    """How an image is decoded.

    Args:
        size: of the decoded image.
        orientation: EXIF orientation that the stored pixels are turned by.
        unclear: whether the annotations fit both the stored and the turned pixels.
    """

    size: ImageSize
    orientation: int = STORED
    unclear: bool = False


@dataclass(frozen=True)
class LoadedImage:
    """A valid image.

    Args:
        record: as listed, with its actual size.
        data: the encoded image.
        geometry: how it is decoded.
        annotations: with their masks.
        mask_rejects: annotations and masks of the mask files that are unusable.
    """

    record: ImageRecord
    data: bytes
    geometry: ImageGeometry
    annotations: tuple[Annotation, ...]
    mask_rejects: tuple[Reject, ...] = ()


def load_image(image: ImageRecord, decoding: Decoding) -> LoadedImage | Reject:
    """Read and validate an image and the masks its annotations lack.

    Raises:
        StorageError: the store cannot be read.
    """
    url = storage.join(image.images_url, image.file_name)
    data = _read_if_file(url)
    if data is None:
        return _reject(image, "missing image file", url)
    decoding = _decoding_of(image, decoding)
    try:
        annotated = image.size if image.size_is_annotated else None
        geometry = validate_image(data, annotated, decoding)
        record = replace(image, size=geometry.size)
        if image.mask_source is None:
            return LoadedImage(record, data, geometry, image.annotations)
        return LoadedImage(record, data, geometry, *image.mask_source.add_masks(record))
    except InvalidRecordError as error:
        return _reject(image, error.reason, error.detail)


def read_size(image: ImageRecord, decoding: Decoding) -> ImageRecord:
    """Return a record with the size that its file's header gives.

    Without a usable file it is returned as it is: `load_image` will say what is wrong with it.
    """
    data = _read_if_file(storage.join(image.images_url, image.file_name))
    if data is None:
        return image
    try:
        stored = stored_size(data)
    except DecodeError:
        return image
    # EXIF alone decides: there is no annotated size that it could be compared with.
    apply = _decoding_of(image, decoding).exif_orientation == "apply"
    size = upright_size(stored, exif_orientation(data) if apply else STORED)
    return replace(image, size=ImageSize(*size), size_is_annotated=False)


def validate_image(data: bytes, size: ImageSize | None, decoding: Decoding) -> ImageGeometry:
    """Decode an image and compare its size with the annotated one.

    Args:
        data: the encoded image.
        size: the image size according to its annotations; None if they do not say.
        decoding: settings of the dataset's images.

    Raises:
        InvalidRecordError: the image must be quarantined.
    """
    try:
        height, width = decode_image(data, STORED, decoding.bit_depth).shape[:2]
    except DecodeError as error:
        raise InvalidRecordError(_UNREADABLE, str(error)[:300]) from None
    stored, orientation = ImageSize(height, width), exif_orientation(data)
    turned = ImageSize(*upright_size(stored, orientation))
    geometry = _choose(stored, turned, orientation, size, decoding)
    if size is not None and geometry.size != size:
        detail = (
            f"the image is {geometry.size.width}x{geometry.size.height}, its annotations say "
            f"{size.width}x{size.height}"
        )
        raise InvalidRecordError("image size differs from annotations", detail)
    return geometry


def _decoding_of(image: ImageRecord, decoding: Decoding) -> Decoding:
    """Return the settings for one image, whose annotations may decide what they leave open."""
    if image.is_upright and decoding.exif_orientation == "auto":
        return replace(decoding, exif_orientation="apply")
    return decoding


def _read_if_file(url: str) -> bytes | None:
    """Return the content of a file; None if it is missing, or a folder."""
    try:
        return storage.read_bytes(url)
    except storage.MissingFileError:
        return None
    except storage.StorageError:
        if storage.is_file(url):
            raise
        return None


def _choose(
    stored: ImageSize,
    turned: ImageSize,
    orientation: int,
    annotated: ImageSize | None,
    decoding: Decoding,
) -> ImageGeometry:
    """Decide whether to turn an image by its EXIF orientation."""
    if orientation == STORED or decoding.exif_orientation == "ignore":
        return ImageGeometry(stored)
    if decoding.exif_orientation == "apply":
        return ImageGeometry(turned, orientation)
    if annotated == turned != stored:
        return ImageGeometry(turned, orientation)
    return ImageGeometry(stored, unclear=annotated is None or stored == turned)


def _reject(image: ImageRecord, reason: str, detail: str) -> Reject:
    return Reject(
        "image", image.file_name, image.image_id, None, reason, detail, source_id=image.source_id
    )
