"""Settings of the sweep: the search space, how it is searched, and how trials are stopped."""

from pipeline.config.sweep.dimension import SearchDimension
from pipeline.config.sweep.settings import PbtConfig, SweepConfig

__all__ = ["PbtConfig", "SearchDimension", "SweepConfig"]
