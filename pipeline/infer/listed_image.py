"""One image of an input, as it is listed before anything is read."""

from collections.abc import Sequence
from typing import NamedTuple


class ListedImage(NamedTuple):
    """An image, its version, and its id if the input gives ids.

    Args:
        name: names the image within the input; empty if the input is this one image.
        version: text that changes when the image is written again.
        image_id: the input's id; None if the job numbers the images.
        source_id: the input's id as JSON, if ``image_id`` differs.
    """

    name: str
    version: str
    image_id: int | None = None
    source_id: str | None = None


def listed_images(
    names: Sequence[str],
    versions: Sequence[str],
    image_ids: Sequence[int],
    source_ids: Sequence[str | None],
) -> list[ListedImage]:
    """Return images from lists of their properties; the lists of ids may be empty."""
    without: list[None] = [None] * len(names)
    rows = zip(names, versions, image_ids or without, source_ids or without, strict=True)
    return [ListedImage(*row) for row in rows]
