"""Settings of the data: source, splits, shards and augmentation."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from model.config.settings import Fraction, NonNegative, Positive, Settings, without_nulls
from pipeline.config.augmentation import (
    ColorJitterConfig,
    RandomCropConfig,
    ScaleJitterConfig,
)
from pipeline.config.data_split import SOURCE_KEYS, Source, SplitConfig
from pipeline.config.data_tiles import DataTilesConfig
from pipeline.storage.urls import Location


class ShapesConfig(Settings):
    """Synthetic dataset of drawn shapes with exact annotations; needs no download."""

    images: Positive = Field(400, description="Images in the training split.")
    val_images: Positive = Field(100, description="Images in the validation split.")
    side: Positive = Field(128, description="Width and height, pixels.")
    max_objects: Positive = Field(5, description="Maximum objects per image.")
    keypoints: bool = Field(
        False,
        description="Annotate the outermost points of each shape: top, left_side, right_side, "
        "bottom.",
    )


def _as_parts(value: Any) -> Any:
    """Accept a single part without a list, and null for no parts."""
    if value is None:
        return ()
    if isinstance(value, dict | SplitConfig):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


_TAKEN_NAMES = ("train", "val", "plots", "pictures", "predictions")


def _check_split_name(name: str) -> str:
    if name in _TAKEN_NAMES:
        raise ValueError(f"a further split cannot be named {', '.join(_TAKEN_NAMES)}")
    return name


SplitName = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$"), AfterValidator(_check_split_name)
]
"""A further split: its evaluation is a folder of this name, beside those of the validation's."""

Parts = Annotated[tuple[SplitConfig, ...], BeforeValidator(_as_parts)]


class DataConfig(Settings):
    """Data source, shards and augmentation."""

    source: Source = Field(
        "shapes",
        description="shapes: a synthetic dataset; the others read train and val below. shards: "
        "existing shards, to merge several or to change rows_per_shard and rows_per_group.",
    )
    shapes: ShapesConfig = ShapesConfig()
    train: Parts = Field(
        (), description="Training split: one mapping, or a list of mappings to be combined."
    )
    val: Parts = Field((), description="Validation split, in the same form.")
    splits: Annotated[dict[SplitName, Parts], BeforeValidator(without_nulls)] = Field(
        {},
        description="Further splits by name, such as test, in the same form; evaluate.split "
        "selects one.",
    )
    classes: tuple[str, ...] = Field(
        (),
        description="Names of the classes to learn, in order; objects of other classes are left "
        "out and counted. Empty: all; voc: VOC's twenty, or if most objects have other names, all "
        "names in the files.",
    )
    exif_orientation: Literal["auto", "apply", "ignore"] = Field(
        "auto",
        description="Whether images are turned as their EXIF data says: apply, ignore, or auto: "
        "where only the turned image has the annotated size. Inference on image files always "
        "turns them.",
    )
    bit_depth: Annotated[int, Field(ge=1, le=32)] | None = Field(
        None,
        description="Significant bits of images with 16 or 32 bits per channel, such as 12; "
        "white is 2 ** bit_depth - 1, so 1 is for floats from 0 to 1; null: as the file says.",
    )
    max_quarantined: Fraction = Field(
        0.05,
        description="Share of the images, and of the annotations, that may be left out as "
        "unusable; above it the job fails and prints the reasons.",
    )
    train_shards: Location | None = Field(
        None, description="URL of the training shards; default: {output}/shards/train."
    )
    val_shards: Location | None = Field(
        None, description="URL of the validation shards; default: {output}/shards/val."
    )
    split_shards: Annotated[dict[SplitName, Location], BeforeValidator(without_nulls)] = Field(
        {},
        description="URLs of the shards of further splits by name; default: {output}/shards/<key>. "
        "A split that is named here alone consists of existing shards.",
    )
    rows_per_shard: Positive = Field(512, description="Images per Parquet file.")
    rows_per_group: Positive = Field(
        32, description="Images per Parquet row group, the unit of reading."
    )
    tiles: DataTilesConfig | None = Field(
        None,
        description="Cut large training images into overlapping tiles when shards are written; {} "
        "takes the defaults.",
    )
    train_short_sides: tuple[Positive, ...] = Field(
        (), description="Short sides sampled in training, pixels; empty: model.input.short_side."
    )
    flip_probability: Fraction = Field(
        0.5, description="Probability of a horizontal flip in training."
    )
    vertical_flip_probability: Fraction = Field(
        0.0, description="Probability of a vertical flip in training."
    )
    quarter_turn_probability: Fraction = Field(
        0.0,
        description="Probability of a turn by 90, 180 or 270 degrees in training, all three alike; "
        "for images without an upper side, such as aerial ones. Batches then mix portrait and "
        "landscape images, so they have more padding.",
    )
    random_crop: RandomCropConfig | None = Field(
        None,
        description="Crop training images at random before they are resized; {} takes the "
        "defaults, detectron2's.",
    )
    scale_jitter: ScaleJitterConfig | None = Field(
        None,
        description="Random scales and crops instead of train_short_sides; {} is the large-scale "
        "jitter of Ghiasi et al. 2021.",
    )
    color_jitter: ColorJitterConfig = ColorJitterConfig()
    copy_paste_probability: Fraction = Field(
        0.0,
        description="Probability that a random part of the objects of another image is pasted on "
        "an image in training (copy-paste, Ghiasi et al. 2021, who do it always). The dataset "
        "needs masks, the model does not.",
    )
    min_keypoints: NonNegative = Field(
        0,
        description="Images with fewer labeled keypoints are excluded from training (Detectron: "
        "10); 0 keeps all.",
    )
    images_without_objects: Literal["keep", "drop"] = Field(
        "keep",
        description="Whether images without objects, or with crowd regions alone, are trained on. "
        "Detectron, detectron2, torchvision, maskrcnn-benchmark and MMDetection drop them. "
        "Validation always has them.",
    )
    repeat_threshold: Fraction = Field(
        0.0,
        description="Repeat images of rare classes: those of a class in a smaller share f of the "
        "training images are seen sqrt(repeat_threshold / f) times per epoch, on average "
        "(repeat-factor sampling, Gupta et al. 2019; LVIS: 0.001). Epochs become longer. 0: off.",
    )
    decode_threads: Positive = Field(2, description="Decoding threads per worker.")
    lookahead_batches: Positive = Field(
        3, description="Batches decoded ahead of the training step."
    )

    @property
    def split_names(self) -> tuple[str, ...]:
        """The names of all splits: train, val and the further ones."""
        return ("train", "val", *dict.fromkeys([*self.splits, *self.split_shards]))

    def parts(self, split: str) -> tuple[SplitConfig, ...]:
        """Return the parts of a split; empty if only its shards are given."""
        if split in ("train", "val"):
            return self.train if split == "train" else self.val
        return self.splits.get(split, ())

    @field_validator("classes")
    @classmethod
    def _classes_are_unique(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) != len(classes) or "" in classes:
            raise ValueError("must be different names")
        return classes

    @model_validator(mode="after")
    def _splits_match_the_source(self) -> "DataConfig":
        if self.source == "shapes":
            if self.splits:
                raise ValueError(
                    "data.source=shapes draws train and val only; name shards in data.split_shards"
                )
            return self
        problems = []
        if self.source == "shards" and self.tiles is not None:
            problems.append("data.tiles cuts images of a dataset, not of existing shards")
        splits = [("train", self.train, self.train_shards), ("val", self.val, self.val_shards)]
        for split, parts, shards in splits:
            if not parts and shards is None:
                keys = " and ".join(SOURCE_KEYS[self.source][0])
                problems.append(f"data.{split} ({keys}) or data.{split}_shards must be given")
        further = [(f"splits.{name}", parts, None) for name, parts in self.splits.items()]
        for split, parts, _ in [*splits, *further]:
            for index, part in enumerate(parts):
                key = f"data.{split}" if len(parts) == 1 else f"data.{split}.{index}"
                problems += [f"{key} {text}" for text in part.problems(self.source)]
        if problems:
            raise ValueError(f"data.source={self.source}: {'; '.join(problems)}")
        return self
