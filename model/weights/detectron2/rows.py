"""Rows of detectron2's class and anchor layers, reordered to our order.

Shapes: K classes without the background.
"""

import torch
from torch import Tensor

from model.config import ModelConfig, RetinaNetConfig
from model.weights.anchor_order import order_anchors_by_ratio
from model.weights.architecture.anchors import AnchorCountError
from model.weights.report import WeightsError


def move_background_first(tensors: dict[str, Tensor]) -> None:
    """Make class 0 the background in the class layers of the ROI heads, in place.

    In detectron2 it is the last of K + 1 classes, and has no rows in the box and mask predictors,
    which get rows of zeros here that nothing reads.

    Args:
        tensors: under our names.
    """
    classes = len(tensors.get("roi_heads.box.class_logits.bias", ()))
    for kind in ("weight", "bias"):
        name = f"roi_heads.box.class_logits.{kind}"
        if name in tensors:
            tensors[name] = tensors[name].roll(1, 0)
        for layer, rows in (("roi_heads.box.box_deltas", 4), ("roi_heads.mask.logits", 1)):
            name = f"{layer}.{kind}"
            if name not in tensors or (len(tensors[name]) == rows and classes > 2):
                continue  # absent, or class-agnostic: the same rows serve the background
            objects = tensors[name]
            background = objects.new_zeros(rows, *objects.shape[1:])
            tensors[name] = torch.cat((background, objects))


def reorder_anchors(tensors: dict[str, Tensor], config: ModelConfig) -> None:
    """Order the rows of anchors as ``AnchorGrid`` does, by ratio first, in place.

    detectron2 orders them by size first.

    Args:
        tensors: under our names.
        config: has the number of ratios, which cannot be inferred from weights.

    Raises:
        AnchorCountError: the number of anchors per cell is not a multiple of the number of ratios.
        WeightsError: a box has another number of deltas than four.
    """
    if "retinanet.box_deltas.weight" in tensors:
        ratios = len((config.retinanet or RetinaNetConfig()).anchor_ratios)
        anchors = len(tensors["retinanet.box_deltas.weight"]) // 4
        layers, section = ("retinanet.class_logits", "retinanet.box_deltas"), "retinanet"
    elif "rpn.head.objectness.weight" in tensors and "rpn.head.deltas.weight" in tensors:
        ratios = len(config.rpn.anchor_ratios)
        anchors = len(tensors["rpn.head.objectness.weight"])
        layers, section = ("rpn.head.objectness", "rpn.head.deltas"), "rpn"
        deltas = len(tensors["rpn.head.deltas.weight"])
        if deltas != 4 * anchors:
            raise WeightsError(
                f"{deltas} deltas for {anchors} anchors: a box has four; rotated boxes, which have "
                "five, are not supported"
            )
    else:
        return
    if anchors % ratios:
        raise AnchorCountError(
            f"{anchors} anchors per cell are not a multiple of {ratios} ratios: set "
            f"model.{section}.anchor_ratios"
        )
    order_anchors_by_ratio(tensors, layers, layers[1], range(ratios), range(ratios))
