"""Settings of the promotion of a registered version to champion."""

from typing import Annotated

from pydantic import Field

from model.config.settings import Fraction, NonNegative, Settings


class PromotionConfig(Settings):
    """What a version needs, besides a better ``track.champion_metric``, to become the champion."""

    margin: Fraction = Field(
        0.0,
        description="The version's metric must be higher than the champion's by more than this.",
    )
    max_class_drop: Fraction | None = Field(
        None,
        description="Largest drop of the AP of any class against the champion; null: any.",
    )
    min_class_objects: NonNegative = Field(
        10, description="Classes with fewer objects in the data are left out of max_class_drop."
    )
    max_slowdown: Annotated[float, Field(gt=0.0)] | None = Field(
        None,
        description="Largest ratio of the version's time per image to the champion's, both "
        "measured by the job on the same machine; 1.1 allows 10% more. null: any.",
    )
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] | None = Field(
        None,
        description="Level, such as 0.95, at which the lower bound of the difference in AP (paired "
        "bootstrap over images) must be above 0; null: no bootstrap.",
    )
    must_promote: bool = Field(
        False,
        description="End register and end_to_end with exit status 3 if the version is not "
        "promoted.",
    )
