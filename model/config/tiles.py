"""Settings of tiled inference."""

from typing import Literal

from pydantic import Field

from model.config.settings import Fraction, Settings


class TilesConfig(Settings):
    """Overlapping tiles of a large image, each resized to ``input`` as an image of its own."""

    size: int = Field(
        1024,
        ge=16,
        description="Height and width of a tile, pixels of the image. An image that fits into one "
        "tile is predicted as it is without tiles.",
    )
    overlap: float = Field(
        0.25,
        ge=0.0,
        le=0.9,
        description="Minimum share of its side by which a tile overlaps the next one. Objects "
        "smaller than the overlap are seen whole by some tile.",
    )
    whole_image: bool = Field(
        True,
        description="Also detect in the whole image at its normal input size: for objects that "
        "are larger than a tile.",
    )
    join: Literal["merge", "nms"] = Field(
        "merge",
        description="merge: detections of one object in several tiles become one, and the parts "
        "of an object that is cut in all tiles are united; nms: of boxes that overlap, the one "
        "with the highest score is kept, and parts stay parts.",
    )
    threshold: Fraction = Field(
        0.5,
        description="merge: overlap from which two detections of a class in different tiles are "
        "one object, where both tiles show it: IoU, or intersection over the smaller area if one "
        "of the tiles cuts the object. nms: "
        "the IoU of boxes above which one is dropped.",
    )

    def check_classes(self, has_classes: bool) -> None:
        """Raise unless results can be joined.

        Raises:
            ValueError: proposals, which have no classes and overlap on purpose, would be merged.
        """
        if self.join == "merge" and not has_classes:
            raise ValueError(
                "tiles.join = merge would unite the overlapping boxes of a proposal network, which "
                "has no classes; set tiles.join = nms"
            )
