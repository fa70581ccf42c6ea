"""Settings of what MLflow keeps."""

from pydantic import Field

from model.config.settings import Settings


class TrackConfig(Settings):
    """MLflow."""

    uri: str | None = Field(
        None, description="MLflow tracking URI; default sqlite in {output}/mlflow.db when local."
    )
    experiment: str = Field("maskrcnn-ray", description="MLflow experiment.")
    model_name: str = Field("maskrcnn-ray", description="Registered model.")
    champion_metric: str = Field(
        "segm/AP",
        description="Metric that decides promotion (bbox/AP, keypoints/AP, proposals/AR1000); "
        "higher is better.",
    )
