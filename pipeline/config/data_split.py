"""Settings of a split: where its images and annotations are, in the form of each source."""

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from model.config.settings import Positive, Settings
from pipeline.storage.urls import Location

Source = Literal["shapes", "coco", "voc", "cityscapes", "function", "shards"]

SOURCE_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "coco": (("annotations", "images"), ("image_ids",)),
    "voc": (("root", "set"), ("year", "masks")),
    "cityscapes": (("root", "set"), ()),
    "function": (("function", "images"), ("arguments",)),
    "shards": (("shards",), ()),
}
"""Source -> required and optional keys of each part of a split."""


class SplitConfig(Settings):
    """One annotated set of images, a part of a split; its keys depend on the source."""

    annotations: Location | None = Field(None, description="coco: URL of the annotation JSON file.")
    images: Location | None = Field(
        None,
        description="coco, function: URL of the folder that file names are relative to.",
    )
    function: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="function: package.module:name of a function that returns a COCO document, or "
        "detectron2's dataset dicts and the classes.",
    )
    arguments: dict[str, Any] = Field({}, description="function: keyword arguments of the call.")
    image_ids: Location | None = Field(
        None, description="coco: URL of a list of image ids, JSON or text; others are excluded."
    )
    root: Location | None = Field(
        None,
        description="voc: URL of the folder with Annotations, ImageSets and JPEGImages; "
        "cityscapes: URL of the folder with gtFine and leftImg8bit.",
    )
    set: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="voc: name of a list in ImageSets/Main, such as trainval; cityscapes: train or "
        "val.",
    )
    year: Positive | None = Field(
        None,
        description="voc: year of the challenge; AP is measured at 11 recalls before 2010, as the "
        "area under the curve since; default: the year at the end of root.",
    )
    masks: bool = Field(
        False, description="voc: read a list in ImageSets/Segmentation, with the objects' masks."
    )
    shards: Location | None = Field(
        None,
        description="shards: URL of a folder of existing shards, of any dataset; classes are "
        "matched by name.",
    )

    @property
    def challenge_year(self) -> int | None:
        """The ``year`` setting, else the year at the end of ``root``, else None."""
        named = re.search(r"(?<!\d)(\d{4})/*$", self.root or "")
        return self.year or (int(named[1]) if named else None)

    def problems(self, source: Source) -> Iterator[str]:
        """Yield the problems of this part for ``source``, as predicates: ``needs images``."""
        required, optional = SOURCE_KEYS[source]
        given = [
            key
            for key, field in type(self).model_fields.items()
            if getattr(self, key) != field.default
        ]
        if missing := [key for key in required if key not in given]:
            yield f"needs {' and '.join(missing)}"
        if foreign := [key for key in given if key not in (*required, *optional)]:
            yield (
                f"takes {', '.join((*required, *optional))}, not {', '.join(foreign)} (from a base "
                "file? A list replaces the base's value, a mapping is merged into it)"
            )
        if source == "voc" and self.root is not None and self.challenge_year is None:
            yield f"needs year, because {self.root} does not end in one"
