"""Rows of detectron2's layers in our order, and norms without statistics.

Shapes: K classes, S sizes and R ratios of the anchors of a cell.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import ModelConfig, RetinaNetConfig
from model.weights.anchor_order import sizes_inside
from model.weights.report import WeightsError

_BACKBONE_NORM = r"((?:backbone|roi_heads\.box\.res5)\..*(?:bn\d|downsample\.1))\.weight"
_FIRST_NORMS = ("fpn.output_norms.0", "roi_heads.box.norms.0", "roi_heads.mask.norms.0")


def background_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The class layers of the ROI heads with our background, class 0.

    There it is the last class, and boxes and masks have no row for it: the rows that nothing reads
    become zeros.

    Args:
        tensors: under our names.
    """
    result = {}
    for kind in ("weight", "bias"):
        name = f"roi_heads.box.class_logits.{kind}"
        if name in tensors:
            result[name] = tensors[name].roll(1, 0)
        classes = len(tensors.get("roi_heads.box.class_logits.bias", ()))
        for layer, rows in (("roi_heads.box.box_deltas", 4), ("roi_heads.mask.logits", 1)):
            if f"{layer}.{kind}" in tensors:
                objects = tensors[f"{layer}.{kind}"]
                if len(objects) == rows and classes > 2:
                    continue  # one for all classes, the background too
                background = objects.new_zeros(rows, *objects.shape[1:])
                result[f"{layer}.{kind}"] = torch.cat((background, objects))
    return result


def ratios_outside(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The layers whose rows are anchors, in the order of ``AnchorGrid``.

    There the sizes are the outer loop and the ratios the inner one.

    Args:
        tensors: under our names.
        config: says how many ratios there are, which weights do not.

    Raises:
        WeightsError: the anchors are no product of sizes and ratios, or their boxes have another
            number of deltas than four.
    """
    if "retinanet.box_deltas.weight" in tensors:
        ratios = len((config.retinanet or RetinaNetConfig()).anchor_ratios)
        anchors = len(tensors["retinanet.box_deltas.weight"]) // 4
        layers, setting = ("retinanet.class_logits", "retinanet.box_deltas"), "retinanet"
    elif "rpn.head.objectness.weight" in tensors and "rpn.head.deltas.weight" in tensors:
        ratios = len(config.rpn.anchor_ratios)
        anchors = len(tensors["rpn.head.objectness.weight"])
        layers, setting = ("rpn.head.objectness", "rpn.head.deltas"), "rpn"
        found = len(tensors["rpn.head.deltas.weight"])
        if found != 4 * anchors:
            raise WeightsError(
                f"{found} deltas of {anchors} anchors: boxes have four each, rotated ones, which "
                "are not built, five"
            )
    else:
        return {}
    if anchors % ratios:
        raise WeightsError(
            f"{anchors} anchors per cell are no multiple of {ratios} ratios: set "
            f"model.{setting}.anchor_ratios"
        )
    return sizes_inside(tensors, layers, layers[1], range(ratios), range(ratios))


def is_group_normed(tensors: Mapping[str, Tensor], config: ModelConfig) -> bool:
    """Whether a backbone's norms without statistics are of groups.

    They are where pyramid and heads have norms without statistics too, or where ``config`` says so:
    its own early files, and Detectron's, have affine maps under the same names.

    Args:
        tensors: under our names.
        config: what the weights cannot tell.
    """
    return config.backbone.norm == "group_norm" or any(
        f"{norm}.weight" in tensors and f"{norm}.running_var" not in tensors
        for norm in _FIRST_NORMS
    )


def identity_statistics(tensors: Mapping[str, Tensor], epsilon: float) -> dict[str, Tensor]:
    """Statistics for the backbone's affine maps: mean 0, variance 1 less the epsilon.

    Args:
        tensors: under our names.
        epsilon: of the norms.
    """
    result = {}
    for name, weight in tensors.items():
        match = re.fullmatch(_BACKBONE_NORM, name)
        if match and f"{match[1]}.running_var" not in tensors:
            result[f"{match[1]}.running_mean"] = torch.zeros_like(weight)
            result[f"{match[1]}.running_var"] = torch.full_like(weight, 1.0 - epsilon)
    return result
