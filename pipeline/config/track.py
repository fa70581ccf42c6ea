"""Settings of experiment tracking."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from model.config.settings import NonNegative, Settings
from pipeline.config.promotion import PromotionConfig

# MLflow's limits; it would refuse these names only after the training.
_MAX_MODEL_NAME, _MAX_EXPERIMENT_NAME = 256, 500


class TrackConfig(Settings):
    """MLflow tracking and model registry."""

    uri: str | None = Field(
        None,
        description="Tracking URI; default: MLFLOW_TRACKING_URI, else SQLite in {output}/mlflow.db "
        "if output is local.",
    )
    experiment: str = Field(
        "maskrcnn-ray",
        min_length=1,
        max_length=_MAX_EXPERIMENT_NAME,
        description="Experiment name.",
    )
    model_name: str = Field(
        "maskrcnn-ray",
        min_length=1,
        max_length=_MAX_MODEL_NAME,
        description="Name of the registered model.",
    )
    sample_images: NonNegative = Field(
        8, description="Augmented training images on the sheet in the run; 0: no sheet."
    )
    system_interval_s: Annotated[float, Field(ge=0.0)] = Field(
        10.0,
        description="Seconds between two samples of the load of rank 0's machine; 0: none.",
    )
    log_checkpoints: bool = Field(
        True,
        description="Record each kept checkpoint of a training as a logged model of its run, with "
        "its validation metrics; nothing is uploaded.",
    )
    champion_metric: str = Field(
        "segm/AP",
        description="Metric that decides promotion to champion, such as bbox/AP, keypoints/AP or "
        "proposals/AR1000; higher is better.",
    )

    champion_minimum: float | None = Field(
        None, description="Lowest champion_metric of a champion; null: any."
    )
    promotion: PromotionConfig = PromotionConfig()
    because: str | None = Field(
        None, description="Reason of register --promote and --rollback, kept with the version."
    )

    @field_validator("model_name")
    @classmethod
    def _can_be_registered(cls, name: str) -> str:
        if re.search(r"[/:@\x00-\x1f]", name) or name in (".", "..") or name != name.strip():
            raise ValueError(
                "the registry takes no name with '/', ':', '@' or control characters, and none "
                "that begins or ends with a space; for example use team-parts for team/parts"
            )
        return name

    @field_validator("experiment")
    @classmethod
    def _is_visible(cls, name: str) -> str:
        if not name.strip():
            raise ValueError("must not be blank")
        return name
