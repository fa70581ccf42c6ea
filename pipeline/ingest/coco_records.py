"""Read the image records of a COCO document, as annotation tools write them."""

from pathlib import PurePosixPath
from typing import Any

from model.structures import ImageSize
from pipeline.ingest.identifiers import id_text
from pipeline.ingest.listing import ImageRecord
from pipeline.ingest.rejects import InvalidRecordError

_MALFORMED = "malformed image record"
_MAX_SIDE = 2**31 - 1
_MAX_NAME = 255  # bytes of a part of a path


def read_image_record(image: Any, image_id: int | None, images_url: str) -> ImageRecord:
    """Return the record of an image, without annotations.

    Backslashes in its name separate folders, as programs on Windows write them.

    Args:
        image: the JSON record.
        image_id: our id of the image; None if it has no usable one.
        images_url: folder that file names are relative to.

    Raises:
        InvalidRecordError: the record must be quarantined.
    """
    if not isinstance(image, dict):
        raise InvalidRecordError(_MALFORMED, repr(image)[:80])
    if image_id is None:
        raise InvalidRecordError(_MALFORMED, "id missing or of the wrong type")
    given = image["id"]
    return ImageRecord(
        image_id=image_id,
        file_name=_file_name(image.get("file_name")),
        size=_size(image),
        annotations=(),
        images_url=images_url,
        source_id=None if type(given) is int and given == image_id else id_text(given),
    )


def _file_name(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRecordError(_MALFORMED, "file_name missing or of the wrong type")
    name = value.replace("\\", "/")
    parts = PurePosixPath(name).parts
    try:
        too_long = max((len(part.encode()) for part in parts), default=0) > _MAX_NAME
    except UnicodeEncodeError:
        raise InvalidRecordError(_MALFORMED, f"file_name {value!r:.80} is not text") from None
    if not name.strip("/.") or "\0" in name or too_long or ".." in parts:
        raise InvalidRecordError(_MALFORMED, f"file_name {value!r:.80} names no file")
    return name


def _size(image: dict[str, Any]) -> ImageSize | None:
    """Return the annotated size; None if it is missing or zero."""
    height, width = (_side(image.get(key), key) for key in ("height", "width"))
    return ImageSize(height, width) if height and width else None


def _side(value: Any, key: str) -> int:
    """Return a height or width in pixels, 0 if it is missing."""
    if value is None or value == "":
        return 0
    try:
        number = float(value) if not isinstance(value, bool | list | dict) else -1.0
    except (ValueError, OverflowError):
        number = -1.0
    if not (0 <= number <= _MAX_SIDE and number.is_integer()):
        detail = f"{key} is {value!r}"[:80] + "; expected a number of pixels"
        raise InvalidRecordError(_MALFORMED, detail)
    return int(number)
