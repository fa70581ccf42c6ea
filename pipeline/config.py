"""RunConfig: everything a job can be told, as one frozen tree, read from YAML and ``key=value``.

One file describes one model on one data set; every job (shards, training, sweep, evaluation,
registration, inference) reads the part it needs. All locations are URLs (``urls.py``).
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from model.config import ModelConfig
from model.settings import (
    ConfigError,
    Fraction,
    NonNegative,
    Positive,
    PositiveFloat,
    Settings,
    apply_overrides,
    check_settings,
    compose_yaml,
)
from pipeline.urls import Location, is_relative


class ShapesConfig(Settings):
    """The synthetic data set: drawn, annotated and exact, for trials without a download."""

    images: Positive = Field(400, description="Images in the training split.")
    val_images: Positive = Field(100, description="Images in the validation split.")
    side: Positive = Field(128, description="Width and height, pixels.")
    max_objects: Positive = Field(5, description="Objects per image, at most.")
    keypoints: bool = Field(
        False,
        description="Annotate each shape's outermost points: top, left_side, right_side, bottom.",
    )


class SplitConfig(Settings):
    """One annotated set of images."""

    annotations: Location = Field(description="URL of a COCO instances JSON.")
    images: Location = Field(description="URL of the folder its file names are relative to.")


class DataConfig(Settings):
    """Where the pictures come from and how they are fed."""

    source: Literal["shapes", "coco"] = Field(
        "shapes", description="shapes draws a data set; coco reads the splits below."
    )
    shapes: ShapesConfig = ShapesConfig()
    train: SplitConfig | None = Field(None, description="Training split of a coco source.")
    val: SplitConfig | None = Field(None, description="Validation split of a coco source.")
    train_shards: Location | None = Field(
        None, description="URL of the training shards; default {output}/shards/train."
    )
    val_shards: Location | None = Field(
        None, description="URL of the validation shards; default {output}/shards/val."
    )
    rows_per_shard: Positive = Field(512, description="Images per Parquet file.")
    rows_per_group: Positive = Field(32, description="Images per Parquet row group, read at once.")
    train_short_sides: tuple[Positive, ...] = Field(
        (), description="Short sides to draw from in training; empty: model.input.short_side."
    )
    flip_probability: Fraction = Field(0.5, description="Chance of a horizontal flip.")
    min_keypoints: NonNegative = Field(
        0,
        description="Images with fewer labelled keypoints are left out of training (Detectron: "
        "10); 0 keeps all.",
    )
    decode_threads: Positive = Field(2, description="Decoding threads per worker.")
    lookahead_batches: Positive = Field(3, description="Batches decoded before they are needed.")


class OptimizerConfig(Settings):
    """How a step is taken; rates are for the recipe's batch."""

    kind: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW.")
    lr: PositiveFloat = Field(0.02, description="Learning rate at recipe_batch images.")
    momentum: Fraction = Field(0.9, description="SGD momentum; AdamW's first beta.")
    weight_decay: float = Field(1e-4, ge=0.0, description="Decay of weights.")
    bias_lr_factor: PositiveFloat = Field(2.0, description="Learning rate of biases, relative.")
    bias_weight_decay: float = Field(0.0, ge=0.0, description="Decay of biases.")
    norm_weight_decay: float = Field(0.0, ge=0.0, description="Decay of norm layers' weights.")
    clip_norm: float = Field(0.0, ge=0.0, description="Largest gradient norm; 0 does not clip.")


class ScheduleConfig(Settings):
    """Learning rate over the steps; all step counts are for the recipe's batch."""

    kind: Literal["multistep", "cosine"] = Field("multistep", description="Decay after warm-up.")
    steps: Positive = Field(90_000, description="Optimiser steps of the whole run.")
    milestones: tuple[Positive, ...] = Field(
        (60_000, 80_000), description="Steps at which a multistep rate drops."
    )
    gamma: PositiveFloat = Field(0.1, description="Factor of each drop.")
    warmup_steps: NonNegative = Field(500, description="Linear warm-up, steps.")
    warmup_factor: Fraction = Field(1 / 3, description="Share of the rate at the first step.")


class TrainConfig(Settings):
    """The training run."""

    workers: Positive = Field(1, description="Ray Train workers; one process each.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto takes a GPU per worker where the cluster has one."
    )
    cpus_per_worker: PositiveFloat = Field(1.0, description="CPUs reserved per worker.")
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Autocast type.")
    global_batch: Positive = Field(16, description="Images per optimiser step, all workers.")
    accumulate: Positive = Field(1, description="Micro-batches per step, to save memory.")
    recipe_batch: Positive | None = Field(
        None,
        description="Batch that optimizer.lr and the schedule were written for; another "
        "global_batch scales rate and steps linearly (Goyal et al. 2017). null: no scaling.",
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    channels_last: bool = Field(True, description="NHWC memory layout.")
    weights: Location | None = Field(
        None,
        description="Weights to start from: a URL or models:/ name of ours, or a file of "
        "torchvision, timm, detectron2, Detectron or maskrcnn-benchmark, also at https://.",
    )
    checkpoint_every: Positive = Field(1000, description="Steps between checkpoints.")
    keep_checkpoints: Positive = Field(2, description="Checkpoints kept, newest first.")
    validate_every: NonNegative = Field(
        0, description="Steps between evaluations of the validation shards; 0: only at the end."
    )
    log_every: Positive = Field(20, description="Steps between logged losses.")
    max_failures: int = Field(3, ge=-1, description="Worker failures survived; -1: any number.")

    @model_validator(mode="after")
    def _batch_divides(self) -> "TrainConfig":
        parts = self.workers * self.accumulate
        if self.global_batch % parts:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of workers x accumulate "
                f"= {self.workers} x {self.accumulate}"
            )
        return self


class EvaluateConfig(Settings):
    """COCO evaluation."""

    batch: Positive = Field(4, description="Images per forward pass.")
    weights: Location | None = Field(
        None,
        description="Checkpoint URL or models:/name@alias; default the run's newest checkpoint.",
    )
    workers: Positive = Field(1, description="Model replicas, where a cluster is joined.")
    pictures: NonNegative = Field(8, description="Pictures of predictions to draw.")


class TrackConfig(Settings):
    """MLflow."""

    uri: str | None = Field(
        None, description="MLflow tracking URI; default sqlite in {output}/mlflow.db when local."
    )
    experiment: str = Field("maskrcnn-ray", description="MLflow experiment.")
    model_name: str = Field("maskrcnn-ray", description="Registered model.")
    champion_metric: str = Field(
        "segm/AP",
        description="Metric that decides promotion (bbox/AP, keypoints/AP); higher is better.",
    )


class InferConfig(Settings):
    """Batch inference."""

    inputs: Location | None = Field(
        None, description="URL of a folder of images or of shards; default the validation shards."
    )
    output: Location | None = Field(
        None, description="URL for prediction shards; default {output}/predictions."
    )
    model: Location | None = Field(
        None, description="models:/name@alias or weights URL; default the champion."
    )
    batch: Positive = Field(4, description="Images per forward pass.")
    workers: Positive = Field(1, description="Model replicas.")
    images_per_shard: Positive = Field(
        64, description="Images per output file when the input is a folder of images."
    )
    score_threshold: Fraction = Field(0.05, description="Detections below this are dropped.")
    pictures: NonNegative = Field(8, description="Pictures of predictions to draw.")


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


class RunConfig(Settings):
    """Everything a job can be told."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Run name.")
    output: Location = Field("runs/run", description="URL of the folder for everything written.")
    seed: NonNegative = Field(0, description="Seed of data order, augmentation and sampling.")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    track: TrackConfig = TrackConfig()
    infer: InferConfig = InferConfig()
    sweep: SweepConfig = SweepConfig()

    @model_validator(mode="after")
    def _source_complete(self) -> "RunConfig":
        if self.data.source == "coco":
            missing = [
                f"data.{split} (annotations and images) or data.{split}_shards"
                for split in ("train", "val")
                if getattr(self.data, split) is None
                and getattr(self.data, f"{split}_shards") is None
            ]
            if missing:
                raise ValueError(f"data.source=coco needs {' and '.join(missing)}")
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config file, set ``key=value`` overrides, check everything.

    Relative locations, in the file and in overrides, count from the current folder.

    Raises:
        ConfigError: every bad key at once; or ``output`` is relative inside a Ray job.
    """
    tree = apply_overrides(compose_yaml(path), overrides)
    here = Path.cwd()
    output = tree.get("output", RunConfig.model_fields["output"].default)
    # Ray runs a job in a temporary copy of the working directory, named after its package.
    in_job_copy = any(part.startswith("_ray_pkg_") for part in here.parts)
    if in_job_copy and isinstance(output, str) and is_relative(output):
        raise ConfigError(
            [
                f"output: {output!r} is relative and this Ray job runs in a temporary folder, so "
                "the results would be lost; give an absolute path or a URL (output=s3://...)"
            ]
        )
    return check_settings(RunConfig, tree, context={"folder": here})


def to_yaml(config: Settings) -> str:
    """The whole tree as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def config_digest(settings: Settings) -> str:
    """SHA-256 (hex) of the settings: equal for equal settings, however written."""
    return digest_of(settings.model_dump(mode="json"))


def digest_of(document: Any) -> str:
    """SHA-256 (hex) of a document's canonical JSON."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
