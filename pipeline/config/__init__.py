"""RunConfig: the settings of every job, a frozen tree read from YAML and ``key=value`` overrides.

One YAML file describes one model on one dataset. Each job (shards, training, sweep, evaluation,
registration, inference, serving) reads the sections it needs, and each section has a file here. All
locations are paths or URLs (``pipeline/storage/urls.py``).
"""

from pipeline.config.chain import ChainConfig, StageName
from pipeline.config.data import DataConfig, ShapesConfig
from pipeline.config.data_split import SplitConfig
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.infer import InferConfig
from pipeline.config.loading import (
    config_digest,
    digest_of,
    load_config,
    stated_tree,
    to_yaml,
)
from pipeline.config.optimization import OptimizerConfig, ScheduleConfig
from pipeline.config.promotion import PromotionConfig
from pipeline.config.run import RunConfig
from pipeline.config.serve import ServeConfig
from pipeline.config.sweep import PbtConfig, SearchDimension, SweepConfig
from pipeline.config.track import TrackConfig
from pipeline.config.train import TrainConfig

__all__ = [
    "ChainConfig",
    "DataConfig",
    "EvaluateConfig",
    "InferConfig",
    "OptimizerConfig",
    "PbtConfig",
    "PromotionConfig",
    "RunConfig",
    "ScheduleConfig",
    "SearchDimension",
    "ServeConfig",
    "ShapesConfig",
    "SplitConfig",
    "StageName",
    "SweepConfig",
    "TrackConfig",
    "TrainConfig",
    "config_digest",
    "digest_of",
    "load_config",
    "stated_tree",
    "to_yaml",
]
