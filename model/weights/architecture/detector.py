"""The detector inferred from weights. Tensors have our names."""

from collections.abc import Mapping

from torch import Tensor

from model.config import BoxHeadConfig, Conventions, FpnConfig, ModelConfig
from model.weights.architecture.backbone import (
    count_layers,
    infer_backbone,
    infer_backbone_norm,
    infer_features,
    infer_norm,
)
from model.weights.architecture.heads import (
    has_roi_heads,
    infer_box_head,
    infer_keypoint_head,
    infer_mask_head,
)
from model.weights.architecture.retinanet import infer_retinanet, is_retinanet
from model.weights.coco_categories import guess_categories
from model.weights.conversion import ConvertedWeights, RenamedTensors
from model.weights.report import WeightsError
from model.weights.stated_settings import explicit_settings


def is_whole_detector(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether there is more than a backbone."""
    return any(name.startswith(("roi_heads.box.", "rpn.head.", "retinanet.")) for name in tensors)


def finish_conversion(
    ecosystem: str, renamed: RenamedTensors, conventions: Conventions, config: ModelConfig
) -> ConvertedWeights:
    """Infer config and classes from renamed weights, and return the finished conversion.

    A backbone alone has neither.

    Args:
        ecosystem: the library that wrote them.
        renamed: under our names, class rows in our order.
        conventions: what the weights assume.
        config: settings that cannot be inferred from weights.

    Raises:
        WeightsError: the architecture is not supported.
    """
    inferred = None
    if is_whole_detector(renamed.tensors):
        inferred = infer_architecture(renamed.tensors, config, conventions)
    return ConvertedWeights(
        ecosystem=ecosystem,
        tensors=renamed.tensors,
        original_names=renamed.original_names,
        ignored=renamed.ignored,
        conventions=conventions,
        config=inferred,
        categories=() if inferred is None else guess_categories(inferred),
    )


def infer_architecture(
    tensors: Mapping[str, Tensor], config: ModelConfig, conventions: Conventions
) -> ModelConfig:
    """Return ``config`` with the architecture of these weights and with ``conventions``.

    Conventions that ``config`` states explicitly are kept.

    Args:
        tensors: tensors of a whole detector.
        config: settings that cannot be inferred from weights: input sizes, thresholds.
        conventions: what the weights assume.

    Raises:
        WeightsError: the architecture is not supported.
    """
    features = infer_features(tensors, config.backbone)
    _require(
        tensors,
        ("backbone.conv1.weight", "ResNet"),
        *([("fpn.output.0.weight", "feature pyramid")] if features == "fpn" else []),
    )
    update = {"features": features, "norm": infer_backbone_norm(tensors)}
    backbone = infer_backbone(tensors, config.backbone).model_copy(update=update)
    if backbone.groups > 1:
        # ResNeXts stride in the 3x3 convolutions, also where the library's ResNets do not.
        conventions = conventions.model_copy(update={"stride_in_1x1": False})
    infer_heads = _one_stage_heads if is_retinanet(tensors) else _two_stage_heads
    return config.model_copy(
        update={
            "conventions": conventions.model_copy(update=explicit_settings(config.conventions)),
            "backbone": backbone,
            "fpn": _fpn(tensors, config.fpn),
            **infer_heads(tensors, config, features),
        }
    )


def _one_stage_heads(
    tensors: Mapping[str, Tensor], config: ModelConfig, features: str
) -> dict[str, object]:
    classes, retinanet = infer_retinanet(tensors, config.retinanet)
    none = {"box": None, "mask": None, "keypoint": None}
    return {"num_classes": classes, "retinanet": retinanet, **none}


def _two_stage_heads(
    tensors: Mapping[str, Tensor], config: ModelConfig, features: str
) -> dict[str, object]:
    _require(
        tensors,
        (
            "rpn.head.convs.0.weight",
            "region proposal network (Fast R-CNN, which reads proposals, is not supported)",
        ),
    )
    layers = count_layers(tensors, "rpn.head.convs.{}.weight")
    rpn = config.rpn.model_copy(update={"layers": layers})
    if not has_roi_heads(tensors):
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
    for name, part in parts:
        if name not in tensors:
            raise WeightsError(f"these weights have no {part}: no tensor becomes {name}")


def _fpn(tensors: Mapping[str, Tensor], fpn: FpnConfig) -> FpnConfig:
    output = tensors.get("fpn.output.0.weight")
    if output is None:
        return fpn
    norm = infer_norm(tensors, "fpn.output_norms.0")
    return fpn.model_copy(update={"channels": output.shape[0], "norm": norm})
