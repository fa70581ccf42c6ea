"""Settings of experiment tracking."""

from pydantic import Field

from model.config.settings import Settings


class TrackConfig(Settings):
    """MLflow tracking and model registry."""

    uri: str | None = Field(
        None,
        description="Tracking URI; default: MLFLOW_TRACKING_URI, else SQLite in {output}/mlflow.db "
        "if output is local.",
    )
    experiment: str = Field("maskrcnn-ray", description="Experiment name.")
    model_name: str = Field("maskrcnn-ray", description="Name of the registered model.")
    champion_metric: str = Field(
        "segm/AP",
        description="Metric that decides promotion to champion, such as bbox/AP, keypoints/AP or "
        "proposals/AR1000; higher is better.",
    )
