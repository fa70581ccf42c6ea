"""Settings of random changes of training images."""

from pydantic import Field, model_validator

from model.config.settings import Positive, PositiveFloat, Settings


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
