"""Detectron's Caffe2 weights: R-CNNs, proposal networks, RetinaNet and ImageNet backbones.

Batch norms are affine maps, a scale and a bias into which the statistics are folded. As ours, fully
connected layers flatten channel, row, column, and class 0 is the background. The anchors of
RetinaNet have another order than ours.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from model.config import DETECTRON, ModelConfig, RetinaNetConfig
from model.config.conventions import NORM_EPSILON
from model.weights.anchor_order import order_anchors_by_ratio
from model.weights.architecture.backbone import RES5_OF_BOX_HEAD
from model.weights.architecture.detector import finish_conversion
from model.weights.conversion import (
    ConvertedWeights,
    RenamedTensors,
    add_identity_statistics,
    check_dimensions,
    refuse_unsupported,
    rename_tensors,
)
from model.weights.detectron.names import IGNORED, renames_to
from model.weights.detectron.shared_conventions import (
    apply_default_settings,
    drop_background_box,
    infer_conventions,
)
from model.weights.report import WeightsError
from model.weights.stated_settings import explicit_settings
from model.weights.storage.weights_file import StoredWeights

# detectron2's X-101-32x8d of FAIR: the only backbone in this format whose norms are not folded.
FAIR_RESNEXT = DETECTRON.model_copy(
    update={
        "pixel_mean": (103.53, 116.28, 123.675),
        "pixel_std": (57.375, 57.12, 58.395),
        "norm_epsilon": NORM_EPSILON,
    }
)
_UNSUPPORTED = {
    "_[mask]_res5": "a mask head with its own res5",
    "kps_deconv": "Keypoint R-CNN with a deconvolution before the last",
    "conv_new_1": "R-FCN",
}
_RETINANET_SETTINGS = {"smooth_l1_beta": 0.11}
# FPN.COARSEST_STRIDE of all RetinaNet configs: the stride of P7.
_RETINANET_DIVISOR = 128
# The order of ratios in all RetinaNet configs.
_RETINANET_RATIOS = (1.0, 2.0, 0.5)
_RES5 = r"res5_\d+_branch.*"
# Weights of bilinear interpolation to twice the size, along one axis.
_BILINEAR = (0.25, 0.75, 0.75, 0.25)

_BOX_APPROXIMATION = (
    "Detectron refines, clips and compares boxes in pixels of the original image, this detector in "
    "pixels of the resized one (less than 1 pixel apart)"
)
_KEYPOINT_APPROXIMATION = (
    "Detectron's keypoint heatmaps fade toward their border, by a quarter in the last row; this "
    "detector's do not"
)


def is_detectron(stored: StoredWeights) -> bool:
    """Return whether these are weights of Detectron, or a backbone in its format."""
    return "conv1_w" in stored.tensors and "res2_0_branch2a_w" in stored.tensors


def convert_detectron(stored: StoredWeights, config: ModelConfig) -> ConvertedWeights:
    """Convert weights of Detectron.

    Args:
        stored: what :func:`is_detectron` recognizes.
        config: settings that cannot be inferred from weights. If it states the anchor ratios of
            RetinaNet, the file's anchors are assumed to be in that order.

    Raises:
        WeightsError: the architecture is not supported.
    """
    refuse_unsupported(stored.tensors, _UNSUPPORTED)
    renamed = _rename(stored.tensors)
    check_dimensions(renamed)
    tensors = renamed.tensors
    resnet = FAIR_RESNEXT if "backbone.bn1.running_var" in tensors else DETECTRON
    drop_background_box(tensors)
    add_identity_statistics(tensors, _batch_norms(renamed), resnet.norm_epsilon)
    assumptions = _reorder_retinanet_anchors(tensors, config)
    converted = finish_conversion(
        "Detectron",
        renamed,
        infer_conventions(tensors, resnet),
        apply_default_settings(tensors, config, _RETINANET_SETTINGS, _RETINANET_DIVISOR),
    )
    approximations = []
    if converted.config is not None:
        approximations.append(_BOX_APPROXIMATION)
        if converted.config.keypoint is not None:
            approximations.append(_KEYPOINT_APPROXIMATION)
    return replace(converted, assumptions=assumptions, approximations=tuple(approximations))


def _rename(tensors: Mapping[str, Tensor]) -> RenamedTensors:
    """Rename tensors to our names, with res5 in the backbone or the box head."""
    ignored = [*IGNORED, *_ignored_keypoint_layer(tensors)]
    res5 = "backbone.layer4"
    if _proposes_from_c4(tensors):
        res5 = RES5_OF_BOX_HEAD
        if "cls_score_w" not in tensors:
            ignored.append((_RES5, "left over from the ImageNet backbone; proposals read res4"))
    finest = 3 if any(name.startswith("retnet_") for name in tensors) else 2
    return rename_tensors(tensors, renames_to(res5, finest), ignored)


def _proposes_from_c4(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the RPN reads res4: it has as many input channels as res4 has outputs."""
    rpn, last = tensors.get("conv_rpn_w"), tensors.get("res4_0_branch2c_w")
    return rpn is not None and last is not None and rpn.shape[1:2] == last.shape[:1]


def _ignored_keypoint_layer(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Return the pattern of the layer that doubles keypoint heatmaps; ours has no weights.

    Raises:
        WeightsError: the layer is not a bilinear interpolation, or the layer before it is missing.
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
            "Keypoint R-CNN without bilinear upsampling at its end is not supported (found "
            f"kps_score_w of shape {tuple(weight.shape)})"
        )
    return [(r"kps_score_[wb]", "bilinear interpolation, which needs no weights")]


def _batch_norms(renamed: RenamedTensors) -> list[str]:
    """List our names of the norms that were folded into affine maps."""
    return [
        ours.removesuffix(".weight")
        for ours, name in renamed.original_names.items()
        if name.endswith("_bn_s")
    ]


def _reorder_retinanet_anchors(tensors: dict[str, Tensor], config: ModelConfig) -> tuple[str, ...]:
    """Reorder RetinaNet's anchors to our order, in place, and return what was assumed."""
    given = config.retinanet or RetinaNetConfig()
    are_stated = "anchor_ratios" in explicit_settings(given)
    theirs = given.anchor_ratios if are_stated else _RETINANET_RATIOS
    layers = ("retinanet.class_logits", "retinanet.box_deltas")
    reordered = order_anchors_by_ratio(tensors, layers, layers[1], theirs, given.anchor_ratios)
    if are_stated or not reordered:
        return ()
    return (
        f"assumed the anchor ratios {theirs} in this order, as in Detectron's configs; if the file "
        "has others, state them as conventions={'retinanet.anchor_ratios': ...}",
    )
