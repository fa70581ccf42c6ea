"""How a picture is looked at more than once."""

from pydantic import Field, model_validator

from model.config.settings import Positive, Settings


class TestAugmentationConfig(Settings):
    """Views of a picture whose findings are joined; read instead of ``input`` when predicting."""

    short_sides: tuple[Positive, ...] = Field(
        (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
        description="Short sides that a picture is resized to, pixels.",
    )
    long_side: Positive = Field(2000, description="Limit of the long side, pixels.")
    flip: bool = Field(True, description="Look at each size mirrored, too.")

    @model_validator(mode="after")
    def _sizes_make_sense(self) -> "TestAugmentationConfig":
        sides = self.short_sides
        if not sides or len(set(sides)) != len(sides):
            raise ValueError("short_sides needs at least one size, and none twice")
        if self.long_side < max(sides):
            raise ValueError(f"long_side {self.long_side} is below the short side {max(sides)}")
        return self
