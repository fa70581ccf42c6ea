"""Settings of the data: where pictures and annotations are, and how they are fed."""

from typing import Literal

from pydantic import Field

from model.settings import Fraction, Positive, Settings
from pipeline.urls import Location


class ShapesConfig(Settings):
    """The synthetic data set: drawn, annotated and exact, for trials without a download."""

    images: Positive = Field(400, description="Images in the training split.")
    val_images: Positive = Field(100, description="Images in the validation split.")
    side: Positive = Field(128, description="Width and height, pixels.")
    max_objects: Positive = Field(5, description="Objects per image, at most.")


class SplitConfig(Settings):
    """One annotated set of images."""

    annotations: Location = Field(description="URL of a COCO instances JSON.")
    images: Location = Field(description="URL of the folder its file names are relative to.")


class DataConfig(Settings):
    """Where the pictures come from and how they are fed."""

    source: Literal["shapes", "coco"] = Field(
        "shapes", description="shapes draws a data set; coco reads the splits below."
    )
    shapes: ShapesConfig = ShapesConfig()
    train: SplitConfig | None = Field(None, description="Training split of a coco source.")
    val: SplitConfig | None = Field(None, description="Validation split of a coco source.")
    train_shards: Location | None = Field(
        None, description="URL of the training shards; default {output}/shards/train."
    )
    val_shards: Location | None = Field(
        None, description="URL of the validation shards; default {output}/shards/val."
    )
    rows_per_shard: Positive = Field(512, description="Images per Parquet file.")
    rows_per_group: Positive = Field(32, description="Images per Parquet row group, read at once.")
    train_short_sides: tuple[Positive, ...] = Field(
        (), description="Short sides to draw from in training; empty: model.input.short_side."
    )
    flip_probability: Fraction = Field(0.5, description="Chance of a horizontal flip.")
    decode_threads: Positive = Field(2, description="Decoding threads per worker.")
    lookahead_batches: Positive = Field(3, description="Batches decoded before they are needed.")
