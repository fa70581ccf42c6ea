"""Settings of cutting large images into tiles when shards are written."""

from typing import Literal

from pydantic import Field

from model.config.settings import Fraction, Settings


class DataTilesConfig(Settings):
    """Cut the training images into overlapping tiles, as ``model.tiles`` does in inference."""

    size: int = Field(
        1024,
        ge=16,
        description="Height and width of a tile, pixels of the image. An image that fits into one "
        "tile is stored unchanged.",
    )
    overlap: float = Field(
        0.25,
        ge=0.0,
        le=0.9,
        description="Minimum share of its side by which a tile overlaps the next one.",
    )
    min_kept: Fraction = Field(
        0.3,
        description="Share of an object's mask, or of its box if it has no mask, that a tile must "
        "show for its part to be an object of the tile.",
    )
    smaller_parts: Literal["ignore", "drop"] = Field(
        "ignore",
        description="What becomes of smaller parts: ignore keeps them as crowd regions, neither "
        "object nor background; drop leaves them out, so that they are background.",
    )
    empty_tiles: Literal["keep", "drop"] = Field(
        "keep", description="Whether tiles without objects and crowd regions are stored."
    )
    val: bool = Field(
        False,
        description="Cut the validation images too; otherwise they stay whole, and are predicted "
        "in tiles if model.tiles says so.",
    )
