"""Settings of the evaluation."""

from pydantic import Field

from model.config.settings import NonNegative, Positive, Settings
from pipeline.storage import Location


class EvaluateConfig(Settings):
    """COCO evaluation."""

    batch: Positive = Field(4, description="Images per forward pass.")
    weights: Location | None = Field(
        None,
        description="Checkpoint URL or models:/name@alias; default the run's newest checkpoint.",
    )
    workers: Positive = Field(1, description="Model replicas, where a cluster is joined.")
    pictures: NonNegative = Field(8, description="Pictures of predictions to draw.")
