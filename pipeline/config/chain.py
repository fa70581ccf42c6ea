"""Settings of the chain of all jobs."""

from typing import Literal

from pydantic import Field

from model.config.settings import NonNegative, PositiveFloat, Settings

StageName = Literal["train_shards", "val_shards", "sweep", "train", "evaluate", "register", "infer"]


class ChainConfig(Settings):
    """The chain of all jobs, ``end_to_end.py``."""

    sweep: bool = Field(
        False,
        description="Run the sweep before the training, which then uses the best trial's values.",
    )
    retries: NonNegative = Field(
        2,
        description="How often a stage is started again after a transient error: a lost process, "
        "machine or connection.",
    )
    retry_pause_s: PositiveFloat = Field(
        10.0, description="Seconds before the first retry; each further pause is twice as long."
    )
    timeout_hours: dict[StageName, PositiveFloat] = Field(
        default_factory=dict,
        description="Stage -> hours after which it is stopped and the chain fails, for example "
        "{train: 12}.",
    )
