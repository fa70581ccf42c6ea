"""Settings of the training run: the step, its rate over time, the workers."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.settings import Fraction, NonNegative, Positive, PositiveFloat, Settings
from pipeline.storage import Location


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
    allow_missing: tuple[str, ...] = Field(
        (),
        description="Patterns (fpn.*) of the detector's tensors that weights may leave open though "
        "they have others of the same part (backbone, pyramid, proposal network, a head).",
    )
    allow_unused: tuple[str, ...] = Field(
        (),
        description="Patterns of the weights' tensors that may stay unused though the detector has "
        "others of the same part.",
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
