"""Settings of training: workers, batches, weights and checkpoints."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.settings import NonNegative, Positive, PositiveFloat, Settings
from model.weights.published.table import Word
from pipeline.config.optimization import OptimizerConfig, ScheduleConfig
from pipeline.storage.urls import ModelLocation

CanvasScope = Literal["global_batch", "micro_batch"]


class TrainConfig(Settings):
    """Training run."""

    workers: Positive | Literal["auto"] = Field(
        "auto",
        description="Ray Train workers, one process each. auto: one per GPU of the cluster, or one "
        "per machine without GPUs; in a sweep one per trial.",
    )
    min_workers: Positive | None = Field(
        None,
        description="Workers that the training continues with if the cluster loses some; it takes "
        "up to `workers` again when they are back, from its newest checkpoint. null: all.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="auto: one GPU per worker if the cluster has them now, else the CPU; cuda also "
        "waits for GPUs that an autoscaler adds.",
    )
    cpus_per_worker: PositiveFloat | Literal["auto"] = Field(
        "auto",
        description="CPUs reserved per worker, and its number of threads. auto: an equal share of "
        "its machine's; in a sweep without GPUs 1.",
    )
    gpus_per_worker: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Share of a GPU that each worker reserves, if it trains on one. Less than 1 "
        "lets several trials of a sweep share a GPU, and needs workers=1: NCCL refuses two "
        "workers of a training on one GPU. Nothing divides the GPU's memory among them.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Autocast dtype. auto: bf16 on GPUs that have it, fp16 on older ones, fp32 on "
        "CPUs.",
    )
    global_batch: Positive = Field(16, description="Images per optimizer step, over all workers.")
    accumulate: Positive = Field(1, description="Micro-batches per step; more need less memory.")
    canvas: CanvasScope = Field(
        "global_batch",
        description="Images that are padded to a common size. global_batch: the losses do not "
        "depend on the number of workers; micro_batch: those of one forward pass, which pads less "
        "where many workers train on few images each in several sizes "
        "(docs/decisions/canvas.md).",
    )
    recipe_batch: Positive | None = Field(
        None,
        description="Batch size that optimizer.lr and schedule are written for; with another "
        "global_batch, rate and steps are scaled linearly (Goyal et al. 2017), but not epochs. "
        "null: no scaling.",
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Decay per step of an exponential moving average of the weights, such as "
        "0.9998, for recipe_batch; lower in the first steps. Validation, checkpoints and "
        "load_detector use the averaged weights. 0: no average.",
    )
    schedule: ScheduleConfig = ScheduleConfig()
    channels_last: bool = Field(True, description="NHWC memory layout.")
    activation_checkpointing: bool = Field(
        False,
        description="Recompute the backbone's maps in the backward pass instead of keeping them. "
        "The result is the same; a step needs a third less memory if batch norms are trained "
        "(R50-FPN), but little less if they are frozen, and another forward pass of the backbone.",
    )
    compile: bool = Field(
        False,
        description="Compile backbone and pyramid with torch.compile, which takes minutes at each "
        "start and needs a C++ compiler. No faster on CPUs; not yet measured on GPUs.",
    )
    weights: Word | ModelLocation | None = Field(
        None,
        description="Initial weights: imagenet or coco for the backbone or detector that "
        "torchvision, detectron2 or Detectron publish for this architecture, a checkpoint URL, "
        "models:/name@alias, or a weights file (path or https:// URL) of torchvision, timm, "
        "detectron2, Detectron, maskrcnn-benchmark or MMDetection.",
    )
    allow_missing: tuple[str, ...] = Field(
        (),
        description="Patterns (fpn.*) of detector tensors that may be missing from the weights, "
        "even if the weights have others of the same part (backbone, pyramid, RPN, a head).",
    )
    allow_unused: tuple[str, ...] = Field(
        (),
        description="Patterns of tensors in the weights that may be unused, even if the detector "
        "has others of the same part.",
    )
    allow_frozen_random_norms: bool = Field(
        False,
        description="Train without weights although model.backbone.norm is frozen_bn; such a "
        "detector does not learn, so this is for tests and benchmarks.",
    )
    checkpoint_every: Positive = Field(1000, description="Steps between checkpoints.")
    keep_checkpoints: Positive = Field(2, description="Number of newest checkpoints to keep.")
    validate_every: NonNegative = Field(
        0, description="Steps between evaluations on the validation shards; 0: only at the end."
    )
    validate_every_epochs: PositiveFloat | None = Field(
        None, description="Epochs between these evaluations, instead of validate_every."
    )
    validation_loss: bool = Field(
        False, description="Measure the losses on the validation shards as well: val/loss."
    )
    final_checkpoint: Literal["best", "last"] = Field(
        "best",
        description="Checkpoint that evaluation, registration and load_detector(output) use. best "
        "(by best_metric) is kept beside the newest ones, and saved at each validation.",
    )
    best_metric: str | None = Field(
        None,
        description="Validation metric of the best checkpoint, such as bbox/AP or loss (lower is "
        "better); null: track.champion_metric, or the detector's first metric if it lacks that.",
    )
    patience: NonNegative = Field(
        0,
        description="Validations in a row without a better best_metric that end the training; 0: "
        "never.",
    )
    max_hours: PositiveFloat | None = Field(
        None,
        description="Hours of training, over all submissions, after which it validates, saves and "
        "ends; the learning rate schedule is not shortened.",
    )
    max_skipped_steps: NonNegative = Field(
        0,
        description="Steps in a row that are skipped because a loss or gradient is NaN or "
        "infinite; 0 stops at the first. fp16 always skips some to find its loss scale.",
    )
    resume: Literal["auto", "required", "never"] = Field(
        "auto",
        description="auto continues the training in the output folder, if there is one; required "
        "fails if there is none, never if there is one.",
    )
    retry_out_of_memory: bool = Field(
        True,
        description="After a step that needs too much memory, continue from the newest checkpoint "
        "with twice the micro-batches (accumulate) and the same global_batch, if divisible.",
    )
    stall_minutes: PositiveFloat | None = Field(
        15,
        description="Minutes of waiting for data after which a worker counts as stalled; twice as "
        "many if it computes. Its rank, machine and place in the code are logged, its process is "
        "ended, and the training continues from the newest checkpoint. null: never.",
    )
    log_every: Positive = Field(20, description="Steps between logged losses.")
    max_failures: int = Field(
        3, ge=-1, description="Worker failures to recover from; -1: unlimited."
    )

    @property
    def worker_count(self) -> int:
        """Number of workers, of settings without ``auto`` (``settle_workers``)."""
        if self.workers == "auto":
            raise ValueError("train.workers=auto is not settled yet")
        return self.workers

    @property
    def worker_cpus(self) -> float:
        """CPUs per worker, of settings without ``auto`` (``settle_workers``)."""
        if self.cpus_per_worker == "auto":
            raise ValueError("train.cpus_per_worker=auto is not settled yet")
        return self.cpus_per_worker

    @model_validator(mode="after")
    def _minimum_is_below_workers(self) -> "TrainConfig":
        if self.min_workers and self.workers != "auto" and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is above workers {self.workers}")
        return self

    @model_validator(mode="after")
    def _a_shared_gpu_has_one_worker(self) -> "TrainConfig":
        if self.gpus_per_worker < 1 and self.workers not in (1, "auto"):
            raise ValueError(
                f"gpus_per_worker {self.gpus_per_worker:g} needs workers=1; got {self.workers}, "
                "and NCCL refuses two workers on one GPU"
            )
        return self

    @model_validator(mode="after")
    def _maps_are_compiled_or_recomputed(self) -> "TrainConfig":
        if self.compile and self.activation_checkpointing:
            raise ValueError("compile and activation_checkpointing exclude each other; set one")
        return self

    @model_validator(mode="after")
    def _batch_is_divisible(self) -> "TrainConfig":
        parts = self.accumulate if self.workers == "auto" else self.workers * self.accumulate
        if self.global_batch % parts:
            product = "" if self.workers == "auto" else f"workers x accumulate = {self.workers} x "
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of "
                f"{product or 'accumulate = '}{self.accumulate}"
            )
        return self
