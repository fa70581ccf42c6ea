"""Settings of the data: where pictures and annotations are, and how they are fed."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from model.config.settings import Fraction, NonNegative, Positive, Settings
from pipeline.storage import Location

Source = Literal["shapes", "coco", "voc", "cityscapes"]

_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "coco": (("annotations", "images"), ("image_ids",)),
    "voc": (("root", "set"), ("year", "masks")),
    "cityscapes": (("root", "set"), ()),
}
"""Of each source, the keys that a part must have and those it may have."""


class ShapesConfig(Settings):
    """The synthetic data set: drawn, annotated and exact, for trials without a download."""

    images: Positive = Field(400, description="Images in the training split.")
    val_images: Positive = Field(100, description="Images in the validation split.")
    side: Positive = Field(128, description="Width and height, pixels.")
    max_objects: Positive = Field(5, description="Objects per image, at most.")
    keypoints: bool = Field(
        False,
        description="Annotate each shape's outermost points: top, left_side, right_side, bottom.",
    )


class SplitConfig(Settings):
    """One annotated set of images; which keys it has depends on the source."""

    annotations: Location | None = Field(None, description="coco: URL of an instances JSON.")
    images: Location | None = Field(
        None, description="coco: URL of the folder that its file names are relative to."
    )
    image_ids: Location | None = Field(
        None, description="coco: URL of a list of ids, JSON or text; other images are left out."
    )
    root: Location | None = Field(
        None,
        description="voc: URL of the folder of Annotations, ImageSets and JPEGImages; "
        "cityscapes: of gtFine and leftImg8bit.",
    )
    set: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="voc: a list in ImageSets/Main, such as trainval; cityscapes: train or val.",
    )
    year: Positive | None = Field(
        None,
        description="voc: year of the challenge: before 2010 it measured at 11 recalls, then "
        "by area; default the number at the end of root.",
    )
    masks: bool = Field(
        False, description="voc: read a list in ImageSets/Segmentation, and its objects' masks."
    )

    @property
    def challenge_year(self) -> int | None:
        """``year``, or what the root's name ends in; None where neither says it."""
        named = re.search(r"(?<!\d)(\d{4})/*$", self.root or "")
        return self.year or (int(named[1]) if named else None)

    def problems(self, source: Source) -> Iterator[str]:
        """What keeps this from being a part of such a source, as ends of a sentence."""
        needed, allowed = _KEYS[source]
        given = [
            key
            for key, field in type(self).model_fields.items()
            if getattr(self, key) != field.default
        ]
        if missing := [key for key in needed if key not in given]:
            yield f"needs {' and '.join(missing)}"
        if strange := [key for key in given if key not in (*needed, *allowed)]:
            yield (
                f"takes {', '.join((*needed, *allowed))}, not {', '.join(strange)} (from a base "
                "file? A list replaces what a base has, a mapping adds to it)"
            )
        if source == "voc" and self.root is not None and self.challenge_year is None:
            yield f"needs year, as {self.root} does not end in one"


def _as_parts(value: Any) -> Any:
    """One part may stand without its list; null is none."""
    if value is None:
        return ()
    if isinstance(value, dict | SplitConfig):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Parts = Annotated[tuple[SplitConfig, ...], BeforeValidator(_as_parts)]


class DataConfig(Settings):
    """Where the pictures come from and how they are fed."""

    source: Source = Field(
        "shapes", description="shapes draws a data set; the others read the splits below."
    )
    shapes: ShapesConfig = ShapesConfig()
    train: Parts = Field(
        (), description="Training split: one mapping, or a list of them to be taken together."
    )
    val: Parts = Field((), description="Validation split, likewise.")
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
    min_keypoints: NonNegative = Field(
        0,
        description="Images with fewer labelled keypoints are left out of training (Detectron: "
        "10); 0 keeps all.",
    )
    decode_threads: Positive = Field(2, description="Decoding threads per worker.")
    lookahead_batches: Positive = Field(3, description="Batches decoded before they are needed.")

    def parts(self, split: Literal["train", "val"]) -> tuple[SplitConfig, ...]:
        """What a split is made of; empty where only its shards are given."""
        return self.train if split == "train" else self.val

    @model_validator(mode="after")
    def _splits_fit_the_source(self) -> "DataConfig":
        if self.source == "shapes":
            return self
        problems = []
        splits = (("train", self.train, self.train_shards), ("val", self.val, self.val_shards))
        for split, parts, shards in splits:
            if not parts and shards is None:
                keys = " and ".join(_KEYS[self.source][0])
                problems.append(f"data.{split} ({keys}) or data.{split}_shards must be given")
            for number, part in enumerate(parts):
                place = f"data.{split}" if len(parts) == 1 else f"data.{split}.{number}"
                problems += [f"{place} {text}" for text in part.problems(self.source)]
        if problems:
            raise ValueError(f"data.source={self.source}: {'; '.join(problems)}")
        return self
