"""The ROI heads inferred from weights. Tensors are those of a whole detector, under our names."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.config import BoxHeadConfig, KeypointHeadConfig, MaskHeadConfig
from model.weights.architecture.backbone import count_layers, infer_norm
from model.weights.report import WeightsError
from model.weights.stated_settings import explicit_settings

_BOX, _MASK, _KEYPOINT = "roi_heads.box", "roi_heads.mask", "roi_heads.keypoint"


def has_roi_heads(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether there are ROI heads: neither a proposal network nor RetinaNet has any."""
    return any(name.startswith("roi_heads.") for name in tensors)


def infer_box_head(
    tensors: Mapping[str, Tensor], box: BoxHeadConfig, features: str
) -> BoxHeadConfig:
    """Return ``box`` with the layers of these weights.

    Args:
        tensors: tensors of a whole detector.
        box: settings that cannot be inferred from weights.
        features: the maps it reads: ``BackboneConfig.features``.

    Raises:
        WeightsError: the box head is not supported.
    """
    update: dict[str, Any] = {
        "class_agnostic": _is_class_agnostic(tensors, f"{_BOX}.box_deltas.weight", 4)
    }
    if features == "c4":
        # res5 accepts any size, so weights do not reveal it; every library pools 14.
        pool_side = {"pool_side": 14} | explicit_settings(box)
        return box.model_copy(update=pool_side | update)
    first = tensors.get(f"{_BOX}.fc1.weight")
    if first is None:
        raise WeightsError(
            "these weights have no fully connected layers in the box head: no tensor becomes "
            f"{_BOX}.fc1.weight"
        )
    update |= {
        "hidden": first.shape[0],
        "fc_layers": count_layers(tensors, _BOX + ".fc{}.weight", first=1),
        "fc_norm": infer_norm(tensors, f"{_BOX}.fc_norms.0"),
        "conv_layers": count_layers(tensors, _BOX + ".convs.{}.weight"),
    }
    channels = tensors["rpn.head.convs.0.weight"].shape[1]
    if update["conv_layers"]:
        channels = update["conv_channels"] = tensors[f"{_BOX}.convs.0.weight"].shape[0]
        update["norm"] = infer_norm(tensors, f"{_BOX}.norms.0")
    update["pool_side"] = math.isqrt(first.shape[1] // channels)
    return box.model_copy(update=update)


def infer_mask_head(
    tensors: Mapping[str, Tensor], mask: MaskHeadConfig | None
) -> MaskHeadConfig | None:
    """Return ``mask``, or the default, with the layers of these weights; None without a mask head.

    Args:
        tensors: tensors of a whole detector.
        mask: settings that cannot be inferred from weights.

    Raises:
        WeightsError: the mask head is not supported.
    """
    upsample = tensors.get(f"{_MASK}.upsample.weight")
    if upsample is None or f"{_MASK}.logits.weight" not in tensors:
        return None
    update = {
        "channels": upsample.shape[1],
        "layers": count_layers(tensors, _MASK + ".convs.{}.weight"),
        "norm": infer_norm(tensors, f"{_MASK}.norms.0"),
        "class_agnostic": _is_class_agnostic(tensors, f"{_MASK}.logits.weight", 1),
    }
    return (mask or MaskHeadConfig()).model_copy(update=update)


def has_keypoint_head(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether there is a keypoint head."""
    return f"{_KEYPOINT}.upsample.weight" in tensors


def infer_keypoint_head(
    tensors: Mapping[str, Tensor], keypoint: KeypointHeadConfig | None
) -> KeypointHeadConfig | None:
    """Return ``keypoint``, or the default, with the layers of these weights; None without the head.

    Args:
        tensors: tensors of a whole detector.
        keypoint: settings that cannot be inferred from weights. Its names are kept if their number
            is that of the weights' keypoints. Otherwise 17 keypoints get the names of COCO's, and
            any other number of keypoints is numbered.
    """
    if not has_keypoint_head(tensors):
        return None
    channels, count = tensors[f"{_KEYPOINT}.upsample.weight"].shape[:2]
    settings, coco = keypoint or KeypointHeadConfig(), KeypointHeadConfig().names
    numbered = tuple(f"keypoint_{number}" for number in range(1, count + 1))
    names = next((known for known in (settings.names, coco) if len(known) == count), numbered)
    layers = count_layers(tensors, _KEYPOINT + ".convs.{}.weight")
    return settings.model_copy(update={"channels": channels, "layers": layers, "names": names})


def _is_class_agnostic(tensors: Mapping[str, Tensor], name: str, rows: int) -> bool:
    """Return whether all classes share the layer's ``rows`` rows instead of having as many each."""
    classes = tensors[f"{_BOX}.class_logits.weight"].shape[0]  # with the background
    found = tensors[name].shape[0]
    if found not in (rows, rows * classes):
        raise WeightsError(
            f"{name} has {found} rows; {classes - 1} classes need {rows * classes}, or {rows} if "
            "class-agnostic"
        )
    return found == rows
