"""Settings of the sweep: the space that is searched, and how."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from model.config.settings import Positive, Settings


class SearchDimension(Settings):
    """One key of the search space."""

    kind: Literal["choice", "uniform", "log_uniform", "int"] = Field(description="Distribution.")
    values: tuple[Any, ...] = Field((), description="The options of a choice.")
    low: float | None = Field(None, description="Lower bound, inclusive.")
    high: float | None = Field(None, description="Upper bound.")

    @model_validator(mode="after")
    def _complete(self) -> "SearchDimension":
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
    """Ray Tune over any keys of this file."""

    space: dict[str, SearchDimension] = Field(
        default_factory=dict, description="Dotted config key -> distribution."
    )
    trials: Positive = Field(8, description="Trials drawn from the space.")
    metric: str = Field("segm/AP", description="Metric to compare trials by.")
    mode: Literal["max", "min"] = Field("max", description="Whether higher is better.")
    grace_steps: Positive = Field(100, description="Steps before ASHA may stop a trial.")
    reduction_factor: Annotated[int, Field(ge=2)] = Field(
        3, description="ASHA keeps one trial in this many at each rung."
    )
    max_concurrent: Positive | None = Field(
        None, description="Trials at once; default what the cluster can hold."
    )
