"""Settings of the sweep: the search space and the scheduler."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from model.config.settings import Positive, Settings


class SearchDimension(Settings):
    """One key of the search space."""

    kind: Literal["choice", "uniform", "log_uniform", "int"] = Field(
        description="Distribution of the values."
    )
    values: tuple[Any, ...] = Field((), description="The values of a choice.")
    low: float | None = Field(None, description="Lower bound, inclusive.")
    high: float | None = Field(None, description="Upper bound.")

    @model_validator(mode="after")
    def _bounds_match_the_kind(self) -> "SearchDimension":
        if self.kind == "choice" and not self.values:
            raise ValueError("a choice needs values")
        if self.kind != "choice" and (self.low is None or self.high is None):
            raise ValueError(f"{self.kind} needs low and high")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.kind == "log_uniform" and self.low is not None and self.low <= 0:
            raise ValueError("log_uniform needs low > 0")
        return self


class SweepConfig(Settings):
    """Ray Tune search over any keys of the configuration."""

    space: dict[str, SearchDimension] = Field(
        default_factory=dict, description="Dotted configuration key -> distribution."
    )
    trials: Positive = Field(8, description="Number of trials sampled from the space.")
    metric: str = Field("segm/AP", description="Validation metric that ranks the trials.")
    mode: Literal["max", "min"] = Field(
        "max", description="Whether a higher or a lower metric is better."
    )
    grace_steps: Positive = Field(100, description="Steps before ASHA may stop a trial.")
    reduction_factor: Annotated[int, Field(ge=2)] = Field(
        3, description="ASHA continues one in this many trials at each rung."
    )
    max_concurrent: Positive | None = Field(
        None, description="Concurrent trials; default: as many as fit on the cluster."
    )
