"""The formats of annotations that the configuration can name."""

from collections.abc import Sequence
from typing import Literal

from pipeline.config import SplitConfig
from pipeline.ingest.cityscapes import read_cityscapes
from pipeline.ingest.coco import read_coco
from pipeline.ingest.listing import Listing, combine_listings
from pipeline.ingest.voc import read_voc

Format = Literal["coco", "voc", "cityscapes"]


def list_split(source: Format, parts: Sequence[SplitConfig]) -> Listing:
    """What the parts of a split list together.

    Args:
        source: the format of them all.
        parts: with the keys that the format needs, as the configuration has checked.

    Raises:
        StorageError: a part cannot be read, or the parts do not fit together.
    """
    return combine_listings([_read_part(source, part) for part in parts])


def _read_part(source: Format, part: SplitConfig) -> Listing:
    # The configuration gives every part what its format needs; "" only satisfies the types.
    root, name = part.root or "", part.set or ""
    match source:
        case "coco":
            return read_coco(part.annotations or "", part.images or "", part.image_ids)
        case "voc":
            return read_voc(root, name, part.challenge_year or 0, part.masks)
        case "cityscapes":
            return read_cityscapes(root, name)
