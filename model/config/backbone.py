"""Settings of the input size, the backbone and the feature pyramid."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from model.config.settings import Positive, Settings
from model.config.user_functions import NAME_PATTERN

Norm = Literal["frozen_bn", "batch_norm", "sync_batch_norm", "group_norm"]
OptionalSyncNorm = Literal["none", "frozen_bn", "batch_norm", "sync_batch_norm", "group_norm"]
# Of the heads: not every worker has ROIs for each of them, so their norms cannot wait for all.
OptionalNorm = Literal["none", "frozen_bn", "batch_norm", "group_norm"]


class InputConfig(Settings):
    """Input size of the network."""

    short_side: Positive = Field(800, description="Short side after resizing, pixels.")
    long_side: Positive = Field(1333, description="Maximum long side, pixels.")
    size_divisor: Positive = Field(32, description="Batches are padded to a multiple of this.")

    @model_validator(mode="after")
    def _sides_are_ordered(self) -> "InputConfig":
        if self.long_side < self.short_side:
            raise ValueError(f"long_side {self.long_side} is below short_side {self.short_side}")
        return self


class BackboneConfig(Settings):
    """ResNet (He et al. 2016) or ResNeXt (Xie et al. 2017), and which of its features are used.

    ``timm`` or ``function`` replace it by another network; ``depth``, ``width`` and ``group_width``
    have no effect then.
    """

    timm: str | None = Field(
        None,
        pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)?$",
        description="A model of timm instead of the ResNet, such as convnext_tiny; needs the extra "
        "timm.",
    )
    function: str | None = Field(
        None,
        pattern=NAME_PATTERN,
        description="package.module:name of a function, marked with @custom_backbone, that returns "
        "a network instead of the ResNet.",
    )
    arguments: dict[str, Any] = Field(
        {},
        description="timm, function: keyword arguments, such as {drop_path_rate: 0.1}.",
    )
    depth: Literal[18, 34, 50, 101, 152] = Field(50, description="Number of layers.")
    features: Literal["fpn", "c4", "c5", "dc5"] = Field(
        "fpn",
        description="fpn: a feature pyramid; c4: the output of res4, with res5 as the box head; "
        "c5: the output of res5; dc5: the output of res5, dilated to the resolution of res4.",
    )
    norm: Norm = Field(
        "frozen_bn",
        description="Normalization layers; frozen_bn needs pretrained weights, the others do not. "
        "sync_batch_norm normalizes over the images of all GPUs, batch_norm over those of each; "
        "their weights are interchangeable, and on CPUs both are batch_norm.",
    )
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = Field(
        2,
        description="Stages that are not trained, from the stem up: 2 freezes stem and res2. No "
        "effect with function.",
    )
    width: Positive = Field(64, description="Channels of the stem; the stages scale with it.")
    groups: Positive = Field(1, description="Groups of the 3x3 convolutions; 32 in ResNeXt.")
    group_width: Positive = Field(
        64,
        description="Channels per group in res2, used if groups > 1; 8 in ResNeXt-101-32x8d.",
    )
    deformable: Literal["none", "v1", "v2"] = Field(
        "none",
        description="Deformable 3x3 convolutions: v1 learns offsets (Dai et al. 2017), v2 also "
        "modulation (Zhu et al. 2019).",
    )
    deformable_stages: tuple[Literal[2, 3, 4, 5], ...] = Field(
        (3, 4, 5), description="Stages whose 3x3 convolutions are deformable."
    )

    @property
    def is_resnet(self) -> bool:
        """Whether the backbone is a ResNet, not a timm model or that of a function."""
        return self.timm is None and self.function is None

    @model_validator(mode="after")
    def _other_networks_have_no_settings_of_a_resnet(self) -> "BackboneConfig":
        if self.is_resnet:
            if self.arguments:
                raise ValueError("arguments are those of timm or function, but neither is set")
            return self
        kind = "timm" if self.timm is not None else "function"
        if self.timm is not None and self.function is not None:
            raise ValueError("timm and function exclude each other; set one of them to null")
        for name in ("groups", "deformable", "features"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is a setting of the ResNet, not of a backbone of {kind}")
        if self.norm not in ("frozen_bn", "batch_norm"):
            raise ValueError(
                f"norm must be frozen_bn or batch_norm with {kind}, for the batch norms that the "
                "network has; it may have others, which are trained"
            )
        # The default is in every saved config, whatever the backbone.
        default = type(self).model_fields["frozen_stages"].default
        if self.function is not None and self.frozen_stages not in (0, default):
            raise ValueError(
                "frozen_stages has no effect with function, which freezes what it does not train"
            )
        return self

    @model_validator(mode="after")
    def _bottleneck_features_need_bottlenecks(self) -> "BackboneConfig":
        needs_bottlenecks = {
            "groups": self.groups > 1,
            "deformable": self.deformable != "none",
            "features = dc5": self.features == "dc5",
        }
        given = [name for name, is_given in needs_bottlenecks.items() if is_given]
        if given and self.depth < 50:
            raise ValueError(f"{' and '.join(given)} need a depth of 50 or more; got {self.depth}")
        return self


class FpnConfig(Settings):
    """The feature pyramid (Lin et al. 2017), used if ``backbone.features`` is ``fpn``."""

    channels: Positive = Field(256, description="Channels of every pyramid level.")
    norm: OptionalSyncNorm = Field("none", description="Normalization after each convolution.")
