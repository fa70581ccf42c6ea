"""The box and mask heads that weights under our names fill."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.config import BoxHeadConfig, MaskHeadConfig
from model.weights.architecture.backbone import count_layers, infer_norm
from model.weights.report import WeightsError

_BOX, _MASK = "roi_heads.box", "roi_heads.mask"


def infer_box_head(
    tensors: Mapping[str, Tensor], box: BoxHeadConfig, features: str
) -> BoxHeadConfig:
    """``box`` with the layers of these weights.

    Args:
        tensors: a whole detector's, under our names.
        box: what the weights cannot tell.
        features: the maps it reads: ``BackboneConfig.features``.

    Raises:
        WeightsError: a box head that we do not build.
    """
    classes = tensors[f"{_BOX}.class_logits.weight"].shape[0]
    for_all = _is_class_agnostic(tensors, f"{_BOX}.box_deltas.weight", 4, classes)
    update: dict[str, Any] = {"class_agnostic": for_all}
    if features == "c4":
        # res5 takes any side; all who have such a head pool 14.
        return box.model_copy(update=update | {"pool_side": 14})
    first = tensors.get(f"{_BOX}.fc1.weight")
    if first is None:
        raise WeightsError(
            f"these weights have no fully connected layers in the box head: nothing becomes "
            f"{_BOX}.fc1.weight"
        )
    fc_layers = 1
    while f"{_BOX}.fc{fc_layers + 1}.weight" in tensors:
        fc_layers += 1
    update |= {"hidden": first.shape[0], "fc_layers": fc_layers}
    update["fc_norm"] = infer_norm(tensors, f"{_BOX}.fc_norms.0")
    update["conv_layers"] = count_layers(tensors, _BOX + ".convs.{}.weight")
    channels = tensors["rpn.head.convs.0.weight"].shape[1]
    if update["conv_layers"]:
        channels = update["conv_channels"] = tensors[f"{_BOX}.convs.0.weight"].shape[0]
        update["norm"] = infer_norm(tensors, f"{_BOX}.norms.0")
    update["pool_side"] = math.isqrt(first.shape[1] // channels)
    return box.model_copy(update=update)


def infer_mask_head(
    tensors: Mapping[str, Tensor], mask: MaskHeadConfig | None
) -> MaskHeadConfig | None:
    """``mask``, or the default, with the layers of these weights; None where there is no mask head.

    Raises:
        WeightsError: a mask head that we do not build.
    """
    upsample = tensors.get(f"{_MASK}.upsample.weight")
    logits = tensors.get(f"{_MASK}.logits.weight")
    if upsample is None or logits is None:
        return None
    classes = tensors[f"{_BOX}.class_logits.weight"].shape[0]
    layers = count_layers(tensors, _MASK + ".convs.{}.weight")
    update = {
        "channels": upsample.shape[1],
        "layers": layers,
        "norm": infer_norm(tensors, f"{_MASK}.norms.0"),
        "class_agnostic": _is_class_agnostic(tensors, f"{_MASK}.logits.weight", 1, classes),
        "pool_side": 14,
    }
    return (mask or MaskHeadConfig()).model_copy(update=update)


def _is_class_agnostic(tensors: Mapping[str, Tensor], name: str, rows: int, classes: int) -> bool:
    """Whether there are ``rows`` once, for all classes, and not for each of them."""
    found = tensors[name].shape[0]
    if found not in (rows, rows * classes):
        raise WeightsError(
            f"{name} has {found} rows; {classes - 1} classes need {rows * classes}, or {rows} "
            "where it is class-agnostic"
        )
    return found == rows
