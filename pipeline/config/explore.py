"""Settings of the data report."""

from pydantic import Field

from model.config.settings import NonNegative, Positive, Settings


class ExploreConfig(Settings):
    """Report on a dataset, with training samples drawn."""

    samples: Positive = Field(16, description="Augmented training samples to draw.")
    first_step: NonNegative = Field(
        0, description="Training step whose batch begins the drawn samples."
    )
