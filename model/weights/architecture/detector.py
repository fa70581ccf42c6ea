"""The detector that weights under our names fill, read from their names and shapes."""

from collections.abc import Mapping

from torch import Tensor

from model.config import BoxHeadConfig, Conventions, FpnConfig, ModelConfig
from model.config.settings import Settings
from model.weights.architecture.backbone import (
    count_layers,
    infer_backbone,
    infer_backbone_norm,
    infer_features,
    infer_norm,
)
from model.weights.architecture.heads import infer_box_head, infer_mask_head
from model.weights.architecture.keypoint import infer_keypoint_head
from model.weights.architecture.retinanet import infer_retinanet, is_retinanet
from model.weights.classes import known_categories
from model.weights.conversion import Conversion, RenamedTensors
from model.weights.report import WeightsError


def is_whole_detector(tensors: Mapping[str, Tensor]) -> bool:
    """Whether there is more than a backbone."""
    return any(name.startswith(("roi_heads.box.", "rpn.head.", "retinanet.")) for name in tensors)


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
    features = infer_features(tensors, config.backbone)
    _require(
        tensors,
        ("backbone.conv1.weight", "ResNet"),
        *([("fpn.output.0.weight", "feature pyramid")] if features == "fpn" else []),
    )
    backbone = {"features": features, "norm": infer_backbone_norm(tensors)}
    chosen = infer_backbone(tensors, config.backbone).model_copy(update=backbone)
    if chosen.groups > 1:
        # A ResNeXt strides in its 3x3 convolutions, whatever the ResNets of its maker do.
        conventions = conventions.model_copy(update={"stride_in_1x1": False})
    heads = _one_stage if is_retinanet(tensors) else _two_stages
    return config.model_copy(
        update={
            "conventions": conventions.model_copy(update=stated(config.conventions)),
            "backbone": chosen,
            "fpn": _fpn(tensors, config.fpn),
            **heads(tensors, config, features),
        }
    )


def _one_stage(
    tensors: Mapping[str, Tensor], config: ModelConfig, features: str
) -> dict[str, object]:
    classes, retinanet = infer_retinanet(tensors, config.retinanet)
    none = {"box": None, "mask": None, "keypoint": None}
    return {"num_classes": classes, "retinanet": retinanet, **none}


def _two_stages(
    tensors: Mapping[str, Tensor], config: ModelConfig, features: str
) -> dict[str, object]:
    _require(
        tensors,
        ("rpn.head.convs.0.weight", "region proposal network (Fast R-CNN reads proposals)"),
    )
    layers = count_layers(tensors, "rpn.head.convs.{}.weight")
    rpn = config.rpn.model_copy(update={"layers": layers})
    if not any(name.startswith("roi_heads.") for name in tensors):
        none = {"box": None, "mask": None, "keypoint": None, "retinanet": None}
        return {"num_classes": 1, "rpn": rpn, **none}
    _require(
        tensors,
        ("roi_heads.box.class_logits.weight", "class predictor"),
        ("roi_heads.box.box_deltas.weight", "box predictor"),
    )
    return {
        "num_classes": tensors["roi_heads.box.class_logits.weight"].shape[0] - 1,
        "rpn": rpn,
        "box": infer_box_head(tensors, config.box or BoxHeadConfig(), features),
        "mask": infer_mask_head(tensors, config.mask),
        "keypoint": infer_keypoint_head(tensors, config.keypoint),
        "retinanet": None,
    }


def _require(tensors: Mapping[str, Tensor], *parts: tuple[str, str]) -> None:
    for name, what in parts:
        if name not in tensors:
            raise WeightsError(f"these weights have no {what}: nothing becomes {name}")


def _fpn(tensors: Mapping[str, Tensor], fpn: FpnConfig) -> FpnConfig:
    output = tensors.get("fpn.output.0.weight")
    if output is None:
        return fpn
    norm = infer_norm(tensors, "fpn.output_norms.0")
    return fpn.model_copy(update={"channels": output.shape[0], "norm": norm})


def stated(settings: Settings) -> dict[str, object]:
    """The settings that were given, not left at their defaults."""
    return {name: getattr(settings, name) for name in settings.model_fields_set}
