"""Settings of test-time augmentation."""

from pydantic import Field, model_validator

from model.config.settings import Positive, Settings


class TestAugmentationConfig(Settings):
    """Views of an image whose detections are merged; replaces ``input`` in inference."""

    short_sides: tuple[Positive, ...] = Field(
        (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
        description="Short sides that each image is resized to, pixels.",
    )
    long_side: Positive = Field(2000, description="Maximum long side, pixels.")
    flip: bool = Field(True, description="Add a horizontally flipped view of each size.")

    @model_validator(mode="after")
    def _sizes_are_valid(self) -> "TestAugmentationConfig":
        sides = self.short_sides
        if not sides or len(set(sides)) != len(sides):
            raise ValueError("short_sides needs at least one size, and every size only once")
        if self.long_side < max(sides):
            raise ValueError(f"long_side {self.long_side} is below the short side {max(sides)}")
        return self
