"""torchvision's RetinaNet on ResNet-50-FPN, v1 and v2, under our names.

Shapes: A anchors per cell, K classes.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from model.config import RetinaNetConfig
from model.weights.architecture.detector import stated
from model.weights.conversion import Conversion, RenamedTensors, Replacement

_CLASS_LOGITS = ("retinanet.class_logits.weight", "retinanet.class_logits.bias")


def _old_tower_layer(match: re.Match[str]) -> str:
    # older files number the ReLUs too
    return f"retinanet.{_TOWERS[match[1]]}_tower.{int(match[2]) // 2}.{match[3]}"


def _tower_layer(match: re.Match[str]) -> str:
    part = "tower" if match[3] == "0" else "norms"
    return f"retinanet.{_TOWERS[match[1]]}_{part}.{match[2]}.{match[4]}"


_TOWERS = {"classification": "class", "regression": "box"}
RETINANET_RENAMES: tuple[tuple[str, Replacement], ...] = (
    (r"backbone\.fpn\.extra_blocks\.(p[67])\.(\w+)", r"fpn.\1.\2"),
    (r"head\.(\w+)_head\.conv\.(\d)\.([01])\.(\w+)", _tower_layer),
    (r"head\.(\w+)_head\.conv\.(\d)\.(\w+)", _old_tower_layer),
    (r"head\.classification_head\.cls_logits\.(\w+)", r"retinanet.class_logits.\1"),
    (r"head\.regression_head\.bbox_reg\.(\w+)", r"retinanet.box_deltas.\1"),
)


def is_torchvision_retinanet(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of torchvision's RetinaNet."""
    return "head.classification_head.cls_logits.weight" in state


def without_background(renamed: RenamedTensors) -> RenamedTensors:
    """Leave out the logit of class 0, which exists but is never true.

    Args:
        renamed: class logits of A * (K + 1) rows, the classes of an anchor together.
    """
    anchors = len(renamed.tensors["retinanet.box_deltas.bias"]) // 4
    tensors = dict(renamed.tensors)
    for name in _CLASS_LOGITS:
        rows = tensors[name]
        by_anchor = rows.reshape(anchors, -1, *rows.shape[1:])
        tensors[name] = by_anchor[:, 1:].flatten(0, 1).contiguous()
    return replace(renamed, tensors=tensors)


def with_their_settings(conversion: Conversion, given: RetinaNetConfig | None) -> Conversion:
    """The config has the settings of their RetinaNet, but for what it states.

    Args:
        conversion: of weights of torchvision.
        given: what the user states. v2 was trained with GIoU, which its norms tell.
    """
    config = conversion.config
    if config is None or config.retinanet is None:
        return conversion
    theirs = {"detections_per_image": 300} | (stated(given) if given else {})
    if config.retinanet.norm != "none":
        theirs["box_loss"] = "giou"
    retinanet = config.retinanet.model_copy(update=theirs)
    return replace(conversion, config=config.model_copy(update={"retinanet": retinanet}))
