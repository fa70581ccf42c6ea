"""Settings of the sweep: what is searched, how, and for how long."""

from typing import Annotated, Literal

from pydantic import Field

from model.config.settings import Fraction, Positive, PositiveFloat, Settings
from pipeline.config.sweep.dimension import SearchDimension

Mode = Literal["max", "min"]
DEFAULT_TRIALS = 8


class PbtConfig(Settings):
    """Population based training (Jaderberg et al. 2017), if scheduler is pbt."""

    every_steps: Positive | None = Field(
        None,
        description="Steps between two decisions whether a trial goes on with the weights and "
        "changed settings of a better one; null: grace_steps.",
    )
    quantile: float = Field(
        0.25,
        gt=0.0,
        le=0.5,
        description="Share of the trials, the worst, that copy one of as many best ones.",
    )
    resample_probability: Fraction = Field(
        0.25,
        description="Probability that a copied setting is sampled anew, instead of moving to a "
        "neighboring value or by a factor of 0.8 or 1.2.",
    )


class SweepConfig(Settings):
    """Search over any keys of the configuration (docs/SWEEPS.md)."""

    space: dict[str, SearchDimension] = Field(
        default_factory=dict, description="Dotted configuration key -> distribution."
    )
    searcher: Literal["random", "grid", "optuna"] = Field(
        "random",
        description="random: independent samples; grid: every combination of the values; optuna: "
        "each trial where the previous ones suggest it (TPE, Bergstra et al. 2011).",
    )
    trials: Positive | None = Field(
        None,
        description=f"Number of trials; null: {DEFAULT_TRIALS}, or all points of a grid. A "
        "finished sweep is extended by a larger number.",
    )
    metric: str = Field("segm/AP", description="Validation metric that ranks the trials.")
    mode: Mode = Field("max", description="Whether a higher or a lower metric is better.")
    second_metric: str | None = Field(
        None,
        description="Second metric, for which optuna searches the best trade-offs with metric: "
        "any of a trial, such as train/images_per_s or seconds (its training time).",
    )
    second_mode: Mode = Field(
        "max", description="Whether a higher or a lower second_metric is better."
    )
    scheduler: Literal["asha", "median", "pbt", "none"] = Field(
        "asha",
        description="How weak trials end early. asha: only the best share reaches the next rung "
        "(Li et al. 2020); median: those below the median of the others are stopped; pbt: they go "
        "on as changed copies of better ones; none: never.",
    )
    grace_steps: Positive = Field(100, description="Steps before a trial may be stopped.")
    reduction_factor: Annotated[int, Field(ge=2)] = Field(
        3, description="ASHA continues one in this many trials at each rung."
    )
    pbt: PbtConfig = PbtConfig()
    max_concurrent: Positive | None = Field(
        None, description="Concurrent trials; default: as many as fit on the cluster."
    )
    max_hours: PositiveFloat | None = Field(
        None,
        description="Hours of the sweep, over all submissions, after which no trial starts and "
        "running ones are interrupted; with more hours they continue.",
    )
    retry_failed: bool = Field(
        False, description="Run failed trials again when the sweep is submitted again."
    )
    warm_start: Literal["none", "best"] = Field(
        "none",
        description="best: a trial begins with the weights of the best one that has finished when "
        "it starts, instead of train.weights.",
    )
    register_best: bool = Field(
        False,
        description="Evaluate the best trial's checkpoint and register it as register does.",
    )
