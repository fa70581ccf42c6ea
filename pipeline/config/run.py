"""RunConfig: the root of the settings."""

from pydantic import Field, model_validator

from model.config import ModelConfig
from model.config.settings import NonNegative, Settings
from model.weights.published.selection import find_published
from model.weights.published.table import WORDS
from model.weights.report import WeightsError
from pipeline.config.chain import ChainConfig
from pipeline.config.data import DataConfig
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.explore import ExploreConfig
from pipeline.config.infer import InferConfig
from pipeline.config.serve import ServeConfig
from pipeline.config.sweep import SweepConfig
from pipeline.config.track import TrackConfig
from pipeline.config.train import TrainConfig
from pipeline.storage.urls import Location


class RunConfig(Settings):
    """Root configuration of every job."""

    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name of the run."
    )
    output: Location = Field("runs/run", description="URL of the folder for all results.")
    seed: NonNegative = Field(0, description="Seed of data order, augmentation and sampling.")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    explore: ExploreConfig = ExploreConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    track: TrackConfig = TrackConfig()
    infer: InferConfig = InferConfig()
    serve: ServeConfig = ServeConfig()
    sweep: SweepConfig = SweepConfig()
    chain: ChainConfig = ChainConfig()

    @model_validator(mode="after")
    def _evaluated_split_exists(self) -> "RunConfig":
        names = self.data.split_names
        if self.evaluate.split not in names:
            raise ValueError(
                f"evaluate.split: there is no split {self.evaluate.split!r}; there are "
                f"{', '.join(names)}. data.splits and data.split_shards name more"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_published(self) -> "RunConfig":
        sources = {
            "train.weights": self.train.weights,
            "evaluate.weights": self.evaluate.weights,
            "infer.model": self.infer.model,
            "serve.model": self.serve.model,
        }
        for key, source in sources.items():
            try:
                if source in WORDS:
                    find_published(source, self.model)
            except WeightsError as error:
                raise ValueError(f"{key}: {error}") from None
        return self
