"""Where the tiles of an image are."""

from typing import NamedTuple

from model.structures import ImageSize


class Window(NamedTuple):
    """A part of an image, pixels; right and bottom are one past the last pixel."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> ImageSize:
        """Height and width."""
        return ImageSize(self.bottom - self.top, self.right - self.left)


def tile_windows(image: ImageSize, tile: int, overlap: float) -> list[Window]:
    """Return the tiles that cover an image, row by row.

    All tiles have the full size, unless the image is smaller, and are spread evenly: none is a
    narrow remainder in which objects are hard to recognize.

    Args:
        image: its size.
        tile: height and width of a tile, pixels.
        overlap: share of its side by which a tile overlaps the next one at least, in [0, 1).
    """
    rows = _starts(image.height, tile, overlap)
    columns = _starts(image.width, tile, overlap)
    height, width = min(tile, image.height), min(tile, image.width)
    return [Window(x, y, x + width, y + height) for y in rows for x in columns]


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return where the tiles of one axis start."""
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    intervals = -(-(length - tile) // step)
    return [n * (length - tile) // intervals for n in range(intervals + 1)]
