"""Detectron's Caffe2 weights: R-CNNs, proposal networks, RetinaNet, and ImageNet backbones.

Its batch norms are affine maps, "scale" and "bias" alone, the statistics being folded into them;
fully connected layers flatten channel, row, column, class 0 is the background: as ours. RetinaNet's
anchors are not.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from model.config import DETECTRON, ModelConfig, RetinaNetConfig
from model.weights.anchor_order import sizes_inside
from model.weights.architecture.backbone import RES5_OF_BOX_HEAD
from model.weights.architecture.detector import describe_detector, stated
from model.weights.conversion import (
    Conversion,
    RenamedTensors,
    StoredWeights,
    check_dimensions,
    rename_tensors,
)
from model.weights.detectron.names import UNNEEDED, renames
from model.weights.legacy import one_box_for_all, refuse_unbuilt
from model.weights.legacy_settings import conventions_of_model, with_settings_of_model
from model.weights.report import WeightsError

# detectron2's X-101-32x8d of FAIR, the one backbone in this format that is not folded.
FAIR_RESNEXT = DETECTRON.model_copy(
    update={
        "pixel_mean": (103.53, 116.28, 123.675),
        "pixel_std": (57.375, 57.12, 58.395),
        "norm_epsilon": 1e-5,
    }
)
_UNBUILT = {
    "_[mask]_res5": "a mask head with a res5 of its own",
    "kps_deconv": "Keypoint R-CNN with a deconvolution before its last",
    "conv_new_1": "R-FCN",
}
_RETINANET = {"smooth_l1_beta": 0.11}
# In the configs of all its RetinaNets.
_RATIOS = (1.0, 2.0, 0.5)
_RES5 = r"res5_\d+_branch.*"
_BILINEAR = (0.25, 0.75, 0.75, 0.25)

_NOT_HONOURED = (
    "boxes are refined, cut and compared in pixels of the original image, not of the resized one "
    "(less than 1 pixel)",
)
_NOT_HONOURED_IN_KEYPOINTS = (
    "keypoint heatmaps fade towards their border, by a quarter in the last row"
)


def is_detectron(stored: StoredWeights) -> bool:
    """Whether these are weights of Detectron, or a backbone in its format."""
    return "conv1_w" in stored.tensors and "res2_0_branch2a_w" in stored.tensors


def convert_detectron(stored: StoredWeights, config: ModelConfig) -> Conversion:
    """Under our names.

    Args:
        stored: what :func:`is_detectron` recognised.
        config: what the weights cannot tell. Anchor ratios of a RetinaNet that it states are taken
            to be in the file's order.

    Raises:
        WeightsError: an architecture that we do not build.
    """
    refuse_unbuilt(stored.tensors, _UNBUILT)
    renamed = _renamed(stored.tensors)
    check_dimensions(renamed)
    rules = FAIR_RESNEXT if "backbone.bn1.running_var" in renamed.tensors else DETECTRON
    renamed.tensors.update(one_box_for_all(renamed.tensors))
    renamed.tensors.update(_identity_statistics(renamed, rules.norm_epsilon))
    assumed = _ratios_outside(renamed.tensors, config)
    conversion = describe_detector(
        "Detectron",
        renamed,
        conventions_of_model(renamed.tensors, rules),
        with_settings_of_model(renamed.tensors, config, _RETINANET),
    )
    not_honoured = _NOT_HONOURED if conversion.config else ()
    if conversion.config is not None and conversion.config.keypoint is not None:
        not_honoured = (*not_honoured, _NOT_HONOURED_IN_KEYPOINTS)
    return replace(conversion, assumed=assumed, not_honoured=not_honoured)


def _renamed(tensors: Mapping[str, Tensor]) -> RenamedTensors:
    """Under our names, res5 where the model has it."""
    unneeded = [*UNNEEDED, *_keypoint_interpolation(tensors)]
    res5 = "backbone.layer4"
    if _reads_res4(tensors):
        res5 = RES5_OF_BOX_HEAD
        if "cls_score_w" not in tensors:
            unneeded.append((_RES5, "kept of the ImageNet backbone; proposals read res4"))
    finest = 3 if any(name.startswith("retnet_") for name in tensors) else 2
    return rename_tensors(tensors, renames(res5, finest), unneeded)


def _reads_res4(tensors: Mapping[str, Tensor]) -> bool:
    """Whether proposals are made from res4 (C4), which the RPN's input channels tell."""
    rpn, last = tensors.get("conv_rpn_w"), tensors.get("res4_0_branch2c_w")
    return rpn is not None and last is not None and rpn.shape[1:2] == last.shape[:1]


def _keypoint_interpolation(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """The name of the layer that doubles the heatmaps, which we do without weights.

    Raises:
        WeightsError: heatmaps are not doubled, or otherwise.
    """
    weight = tensors.get("kps_score_w")
    if weight is None:
        return []
    line, keypoints = torch.tensor(_BILINEAR), weight.shape[0] if weight.ndim == 4 else 0
    bilinear = torch.einsum("kl,i,j->klij", torch.eye(keypoints), line, line)
    if "kps_score_lowres_w" not in tensors or not (
        weight.shape == bilinear.shape and weight.float().allclose(bilinear, atol=1e-4)
    ):
        raise WeightsError(
            f"Keypoint R-CNN without a bilinear upsampling at its end is not built (kps_score_w of "
            f"shape {tuple(weight.shape)})"
        )
    return [(r"kps_score_[wb]", "a bilinear interpolation, which needs no weights")]


def _identity_statistics(renamed: RenamedTensors, epsilon: float) -> dict[str, Tensor]:
    """Mean 0 and variance 1, less the epsilon, for every affine map without statistics."""
    result = {}
    for name, original in renamed.original_names.items():
        norm = name.removesuffix("weight")
        if re.search(r"_bn_s$", original) and f"{norm}running_var" not in renamed.tensors:
            result[f"{norm}running_mean"] = torch.zeros_like(renamed.tensors[name])
            result[f"{norm}running_var"] = torch.full_like(renamed.tensors[name], 1.0 - epsilon)
    return result


def _ratios_outside(tensors: dict[str, Tensor], config: ModelConfig) -> tuple[str, ...]:
    """RetinaNet's anchors by ratio first, in place; what was assumed of them, in words."""
    given = config.retinanet or RetinaNetConfig()
    own = "anchor_ratios" in stated(given)
    theirs = given.anchor_ratios if own else _RATIOS
    layers = ("retinanet.class_logits", "retinanet.box_deltas")
    changed = sizes_inside(tensors, layers, layers[1], theirs, given.anchor_ratios)
    tensors.update(changed)
    if own or not changed:
        return ()
    return (
        f"anchors of the ratios {theirs}, in this order, as Detectron's configs have them; "
        "model.retinanet.anchor_ratios can state another",
    )
