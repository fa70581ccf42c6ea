"""The detector that weights under our names fill, read from their names and shapes."""

import math
from collections.abc import Mapping

from torch import Tensor

from model.backbones.resnet import BLOCKS
from model.config import BackboneConfig, BoxHeadConfig, Conventions, MaskHeadConfig, ModelConfig
from model.settings import Settings
from model.weights.classes import known_categories
from model.weights.conversion import Conversion, RenamedTensors
from model.weights.keypoint_architecture import infer_keypoint_head
from model.weights.report import WeightsError


def is_whole_detector(tensors: Mapping[str, Tensor]) -> bool:
    """Whether there is more than a backbone."""
    return any(name.startswith(("roi_heads.box.", "rpn.head.")) for name in tensors)


def describe_detector(
    ecosystem: str, renamed: RenamedTensors, conventions: Conventions, config: ModelConfig
) -> Conversion:
    """Renamed weights with what follows from them: of a backbone nothing, of a detector its config.

    Args:
        ecosystem: who wrote them.
        renamed: under our names, class rows in our order.
        conventions: what the weights take for granted.
        config: what the weights cannot tell.

    Raises:
        WeightsError: an architecture that we do not build.
    """
    chosen = None
    if is_whole_detector(renamed.tensors):
        chosen = infer_architecture(renamed.tensors, config, conventions)
    return Conversion(
        ecosystem=ecosystem,
        tensors=renamed.tensors,
        original_names=renamed.original_names,
        unneeded=renamed.unneeded,
        conventions=conventions,
        config=chosen,
        categories=() if chosen is None else known_categories(chosen),
    )


def infer_architecture(
    tensors: Mapping[str, Tensor], config: ModelConfig, conventions: Conventions
) -> ModelConfig:
    """``config`` with the architecture of these weights and with ``conventions``.

    Conventions that ``config`` states explicitly stay.

    Args:
        tensors: a whole detector's, under our names.
        config: what the weights cannot tell: input sizes, thresholds.
        conventions: what the weights take for granted.

    Raises:
        WeightsError: an architecture that we do not build.
    """
    for name, what in (
        ("backbone.conv1.weight", "a ResNet"),
        ("fpn.output.0.weight", "a feature pyramid (a C4 or C5 model?)"),
        ("roi_heads.box.fc1.weight", "a box head of two fully connected layers"),
        ("roi_heads.box.class_logits.weight", "a class predictor"),
        ("roi_heads.box.box_deltas.weight", "a box predictor"),
    ):
        if name not in tensors:
            raise WeightsError(f"these weights have no {what}: nothing becomes {name}")
    fc1 = tensors["roi_heads.box.fc1.weight"]
    fpn_channels = tensors["fpn.output.0.weight"].shape[0]
    classes = tensors["roi_heads.box.class_logits.weight"].shape[0]
    _check_class_rows(tensors, classes)
    # A norm that counts its batches was trained along.
    trained_norm = any(name.endswith("num_batches_tracked") for name in tensors)
    backbone = infer_backbone(tensors, config.backbone).model_copy(
        update={"norm": "batch_norm" if trained_norm else "frozen_bn"}
    )
    box = {"hidden": fc1.shape[0], "pool_side": math.isqrt(fc1.shape[1] // fpn_channels)}
    return config.model_copy(
        update={
            "num_classes": classes - 1,
            "conventions": conventions.model_copy(update=stated(config.conventions)),
            "backbone": backbone,
            "fpn": config.fpn.model_copy(update={"channels": fpn_channels}),
            "box": (config.box or BoxHeadConfig()).model_copy(update=box),
            "mask": _mask(tensors, config.mask),
            "keypoint": infer_keypoint_head(tensors, config.keypoint),
        }
    )


def infer_backbone(tensors: Mapping[str, Tensor], backbone: BackboneConfig) -> BackboneConfig:
    """``backbone`` with the depth and width of these weights, under our names.

    Raises:
        WeightsError: a backbone that we do not build.
    """
    width = tensors["backbone.conv1.weight"].shape[0]
    return backbone.model_copy(update={"depth": _depth(tensors), "width": width})


def stated(settings: Settings) -> dict[str, object]:
    """The settings that were given, not left at their defaults."""
    return {name: getattr(settings, name) for name in settings.model_fields_set}


def _check_class_rows(tensors: Mapping[str, Tensor], classes: int) -> None:
    """Boxes and masks must be predicted for each class by itself."""
    for name, rows in (
        ("roi_heads.box.box_deltas.weight", 4 * classes),
        ("roi_heads.mask.logits.weight", classes),
    ):
        if name in tensors and tensors[name].shape[0] != rows:
            raise WeightsError(
                f"{name} has {tensors[name].shape[0]} rows for {classes - 1} classes, not {rows}: "
                "class-agnostic heads are not built yet"
            )


def _mask(tensors: Mapping[str, Tensor], mask: MaskHeadConfig | None) -> MaskHeadConfig | None:
    upsample = tensors.get("roi_heads.mask.upsample.weight")
    if upsample is None:
        return None
    layers = sum(f"roi_heads.mask.convs.{layer}.weight" in tensors for layer in range(32))
    update = {"channels": upsample.shape[1], "layers": layers, "pool_side": 14}
    return (mask or MaskHeadConfig()).model_copy(update=update)


def _depth(tensors: Mapping[str, Tensor]) -> int:
    blocks = tuple(
        len({name.split(".")[2] for name in tensors if name.startswith(f"backbone.layer{s}.")})
        for s in range(1, 5)
    )
    bottleneck = "backbone.layer1.0.conv3.weight" in tensors
    middle = tensors.get("backbone.layer1.0.conv2.weight")
    if middle is not None and middle.shape[0] != middle.shape[1]:
        raise WeightsError("a ResNeXt (its 3x3 convolutions have groups) is not built yet")
    for depth, known in BLOCKS.items():
        if known == blocks and (depth >= 50) == bottleneck:
            return depth
    raise WeightsError(f"a ResNet with {blocks} blocks per stage is none of {sorted(BLOCKS)}")
