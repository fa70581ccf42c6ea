"""Settings of random changes of training images."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.settings import Fraction, Positive, PositiveFloat, Settings


class ColorJitterConfig(Settings):
    """Random change of colors, as torchvision's ColorJitter; all zeros: none."""

    brightness: float = Field(0.0, ge=0.0, description="Factors are drawn from 1 +- this.")
    contrast: float = Field(0.0, ge=0.0, description="Factors are drawn from 1 +- this.")
    saturation: float = Field(0.0, ge=0.0, description="Factors are drawn from 1 +- this.")
    hue: float = Field(
        0.0, ge=0.0, le=0.5, description="Shifts are drawn from +- this part of the color circle."
    )

    @property
    def changes_colors(self) -> bool:
        """Whether any setting differs from zero."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


class RandomCropConfig(Settings):
    """A random crop before the resize, as detectron2's INPUT.CROP and MMDetection's RandomCrop."""

    type: Literal["relative_range", "relative", "absolute", "absolute_range"] = Field(
        "relative_range",
        description="How the height and width of the crop are drawn: relative_range: fractions of "
        "the image's, each uniform from size to 1; relative: the fractions size; absolute: the "
        "pixels size; absolute_range: pixels, both uniform from the first to the second of size. "
        "A crop is never larger than the image.",
    )
    size: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.9, 0.9),
        description="Height and width, fractions or pixels; absolute_range: smallest and largest.",
    )
    probability: Fraction = Field(1.0, description="Probability that an image is cropped.")
    with_object: bool = Field(
        False,
        description="The crop contains the center of an object drawn at random, so an image with "
        "objects keeps some. false: anywhere, perhaps without objects.",
    )

    @model_validator(mode="after")
    def _size_fits_the_type(self) -> "RandomCropConfig":
        if self.type.startswith("relative"):
            if max(self.size) > 1.0:
                raise ValueError(
                    f"size {self.size} must be fractions up to 1 with type={self.type}"
                )
        elif any(side != int(side) for side in self.size):
            raise ValueError(f"size {self.size} must be whole pixels with type={self.type}")
        elif self.type == "absolute_range" and self.size[0] > self.size[1]:
            raise ValueError(f"size {self.size} must be the smallest and the largest side, pixels")
        return self


class ScaleJitterConfig(Settings):
    """Random scales, cropped to a fixed size (large-scale jitter, Ghiasi et al. 2021)."""

    side: Positive = Field(1024, description="Largest height and width after cropping, pixels.")
    min_scale: PositiveFloat = Field(
        0.1, description="Smallest scale; at 1 the long side of an image is `side`."
    )
    max_scale: PositiveFloat = Field(2.0, description="Largest scale.")

    @model_validator(mode="after")
    def _scales_are_ordered(self) -> "ScaleJitterConfig":
        if self.min_scale > self.max_scale:
            raise ValueError(f"min_scale {self.min_scale} is above max_scale {self.max_scale}")
        return self
