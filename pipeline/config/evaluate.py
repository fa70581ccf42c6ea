"""Settings of evaluation."""

from pydantic import Field

from model.config.settings import NonNegative, Positive, Settings
from pipeline.storage.urls import Location


class EvaluateConfig(Settings):
    """Evaluation with COCO metrics."""

    batch: Positive = Field(4, description="Images per forward pass.")
    weights: Location | None = Field(
        None,
        description="Checkpoint URL or models:/name@alias; default: the run's newest checkpoint.",
    )
    workers: Positive = Field(1, description="Model replicas, if the job joins a cluster.")
    pictures: NonNegative = Field(8, description="Images to draw predictions on.")
