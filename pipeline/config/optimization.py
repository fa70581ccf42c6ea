"""Settings of the optimizer and the learning rate schedule."""

from typing import Literal

from pydantic import Field, model_validator

from model.config.settings import Fraction, NonNegative, Positive, PositiveFloat, Settings


class OptimizerConfig(Settings):
    """Optimizer; learning rates are for recipe_batch."""

    kind: Literal["sgd", "adamw"] = Field("sgd", description="SGD with momentum, or AdamW.")
    lr: PositiveFloat = Field(0.02, description="Learning rate at recipe_batch images.")
    momentum: Fraction = Field(0.9, description="SGD momentum; AdamW's first beta.")
    weight_decay: float = Field(1e-4, ge=0.0, description="Decay of weights.")
    bias_lr_factor: PositiveFloat = Field(
        2.0, description="Learning rate of biases, relative to lr."
    )
    bias_weight_decay: float = Field(0.0, ge=0.0, description="Decay of biases.")
    norm_weight_decay: float = Field(
        0.0, ge=0.0, description="Decay of the weights of normalization layers."
    )
    backbone_lr_factor: PositiveFloat = Field(
        1.0, description="Learning rate of the backbone, relative to lr; 0.1 in DETR."
    )
    layer_decay: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Learning rate of each stage of the backbone, relative to the stage above it "
        "(Clark et al. 2020): with 0.8, res5 has 0.8 times the rate of the pyramid and the heads, "
        "res4 0.64 times, the stem 0.33 times. 1: the same rate everywhere.",
    )
    clip_norm: float = Field(0.0, ge=0.0, description="Maximum gradient norm; 0: no clipping.")


class ScheduleConfig(Settings):
    """Learning rate schedule; step counts are for recipe_batch, epochs for any batch size."""

    kind: Literal["multistep", "cosine", "polynomial"] = Field(
        "multistep", description="Decay after the warm-up."
    )
    epochs: PositiveFloat | None = Field(
        None,
        description="Length of the run in epochs (passes over the training images), instead of "
        "steps; 12 is a 1x schedule of COCO. null: steps.",
    )
    steps: Positive = Field(
        90_000, description="Optimizer steps of the whole run, unless epochs is set."
    )
    milestones: tuple[Positive, ...] = Field(
        (60_000, 80_000), description="Steps at which a multistep schedule drops the rate."
    )
    milestones_epochs: tuple[PositiveFloat, ...] | None = Field(
        None,
        description="Epochs at which it does, if epochs is set: [8, 11] of 12. null: at the same "
        "fractions of the run as milestones in steps.",
    )
    gamma: PositiveFloat = Field(0.1, description="Factor of each drop.")
    final_factor: Fraction = Field(
        0.0,
        description="Learning rate at the end of a cosine or polynomial schedule, relative to lr.",
    )
    power: PositiveFloat = Field(
        1.0, description="Exponent of a polynomial schedule; 1: linear decay."
    )
    warmup_kind: Literal["linear", "constant"] = Field(
        "linear",
        description="linear: the rate rises from warmup_factor to 1 times lr; constant: it stays "
        "at warmup_factor until the end of the warm-up.",
    )
    warmup_steps: NonNegative = Field(
        500, description="Length of the warm-up, steps; if epochs is set, at most one epoch."
    )
    warmup_epochs: float | None = Field(
        None,
        ge=0.0,
        description="Length of the warm-up in epochs, if epochs is set. null: warmup_steps.",
    )
    warmup_factor: Fraction = Field(
        1 / 3, description="Fraction of the learning rate at the first step."
    )

    @model_validator(mode="after")
    def _epochs_are_complete(self) -> "ScheduleConfig":
        in_epochs = {
            "milestones_epochs": self.milestones_epochs,
            "warmup_epochs": self.warmup_epochs,
        }
        given = [name for name, value in in_epochs.items() if value is not None]
        if self.epochs is None and given:
            are = "are" if len(given) > 1 else "is"
            raise ValueError(
                f"{' and '.join(given)} {are} set, but epochs is null; set epochs too, or count in "
                "steps: steps, milestones and warmup_steps"
            )
        return self
