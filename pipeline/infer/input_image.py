"""One image of an inference job. It needs no pyarrow, also where it is that of a shard's row."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.images.decode import Pixels, decode_image
from pipeline.storage.redaction import redact

if TYPE_CHECKING:
    from pipeline.shards.row import ShardRow


@dataclass(frozen=True)
class InputImage:
    """One encoded image, or the error that prevented reading it.

    Args:
        image_id: the dataset's id; for a folder of images a number that is the image's own as long
            as it is in the folder.
        file_name: as in the dataset, or relative to the folder.
        encoded: the image file.
        error: why the image could not be read; ``encoded`` is empty then.
        orientation: EXIF orientation to turn the pixels by; None follows the file.
        bit_depth: significant bits of an image with more than 8; None follows the file.
        source_id: the dataset's id of the image as JSON, if ``image_id`` differs.
        version: of the file that it was read from.
    """

    image_id: int
    file_name: str
    encoded: bytes
    error: str | None = None
    orientation: int | None = None
    bit_depth: int | None = None
    source_id: str | None = None
    version: str | None = None

    @classmethod
    def from_row(cls, row: "ShardRow", version: str | None = None) -> "InputImage":
        """Return the image of a row, to be decoded as its annotations require."""
        return cls(
            row.image_id,
            row.file_name,
            row.image_bytes,
            orientation=row.orientation,
            bit_depth=row.bit_depth,
            source_id=row.source_image_id,
            version=version,
        )

    def decode(self) -> Pixels:
        """Return the image's pixels, (H, W, 3) uint8 RGB.

        Raises:
            DecodeError: the image is damaged, too large or of unknown depth.
        """
        return decode_image(self.encoded, self.orientation, self.bit_depth)


def describe_error(error: Exception) -> str:
    """Return the type and text of an error, the same on every run: no addresses, no signatures."""
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", redact(f"{type(error).__name__}: {error}"))
