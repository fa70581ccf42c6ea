"""Narrow models of Detectron: their layers as Caffe2 blobs, under Detectron's names."""

import pickle

import numpy as np
import torch

from tests.model.weights.detectron.model_layers import BLOCKS, Kind

MASKS = ("boxes", "masks")
KINDS = {
    "faster class-agnostic": Kind(("boxes",), class_agnostic=True),
    "mask": Kind(MASKS),
    "mask X-101": Kind(MASKS, depth=101, groups=4),
    "keypoint": Kind(("boxes", "keypoints")),
    "mask GN": Kind(MASKS, norm="group", box_convolutions=4),
    "faster of convolutions": Kind(("boxes",), box_convolutions=4),
    "proposals": Kind(("proposals",)),
    "proposals C4": Kind(("proposals",), features="c4"),
    "faster C4": Kind(("boxes",), features="c4"),
    "mask C4": Kind(MASKS, features="c4"),
    "retinanet": Kind(("retinanet",)),
}
NAMES = {
    ("stem",): "conv1",
    ("top", 6): "fpn_6",
    ("top", 7): "fpn_7",
    ("fc", 1): "fc6",
    ("fc", 2): "fc7",
    ("scores",): "cls_score",
    ("boxes",): "bbox_pred",
    ("mask upsampling",): "conv5_mask",
    ("masks",): "mask_fcn_logits",
    ("heatmaps",): "kps_score_lowres",
    ("class logits",): "retnet_cls_pred_fpn3",
    ("box deltas",): "retnet_bbox_pred_fpn3",
}
DENSE = {"rpn": "conv_rpn", "objectness": "rpn_cls_logits", "anchor deltas": "rpn_bbox_pred"}


def layer_name(key, kind):
    """Return the name of a layer's blobs without _w and _b."""
    match key:
        case ("block", stage, number, branch):
            return f"res{stage}_{number}_branch{('1', '2a', '2b', '2c')[branch]}"
        case ("lateral", stage):
            last = BLOCKS[kind.depth][stage - 2] - 1
            return f"fpn_inner_res{stage}_{last}_sum" + ("" if stage == 5 else "_lateral")
        case ("output", stage):
            return f"fpn_res{stage}_{BLOCKS[kind.depth][stage - 2] - 1}_sum"
        case ("rpn" | "objectness" | "anchor deltas" as layer,):
            return DENSE[layer] + ("_fpn2" if kind.features == "fpn" else "")
        case ("box", layer):
            return f"head_conv{layer}"
        case ("mask", layer):
            return f"_mask_fcn{layer}" if kind.norm == "group" else f"_[mask]_fcn{layer}"
        case ("keypoint", layer):
            return f"conv_fcn{layer}"
        case ("class tower", layer):
            return f"retnet_cls_conv_n{layer}_fpn3"
        case ("box tower", layer):
            return f"retnet_bbox_conv_n{layer}_fpn3"
    return NAMES[key]


def make_blobs(kind, layers):
    blobs = {"lr": np.float32([0.02]), "fc1000_w": np.ones((9, 4), np.float32)}
    for key, layer in layers.items():
        name = layer_name(key, kind)
        blobs[f"{name}_w"] = layer.weight
        blobs[f"{name}_w_momentum"] = torch.zeros_like(layer.weight)
        if layer.bias is not None:
            blobs[f"{name}_b"] = layer.bias
        if layer.norm is not None:
            norm = f"{name}_gn" if kind.norm == "group" else f"{name}_bn"
            norm = "res_conv1_bn" if norm == "conv1_bn" else norm
            blobs[f"{norm}_s"], blobs[f"{norm}_b"] = layer.norm["weight"], layer.norm["bias"]
    if "keypoints" in kind.heads:
        # Bilinear: a linear ramp up and down, two pixels wide, for each keypoint separately.
        ramp = np.float32([1, 3, 3, 1]) / 4
        blobs["kps_score_w"] = np.zeros((17, 17, 4, 4), np.float32)
        blobs["kps_score_w"][range(17), range(17)] = ramp[:, None] * ramp
        blobs["kps_score_b"] = np.zeros(17, np.float32)
    if kind == KINDS["proposals C4"]:
        blobs["res5_0_branch2a_w"] = np.ones((64, 128, 1, 1), np.float32)
        blobs["res5_0_branch2a_bn_s"] = np.ones(64, np.float32)
    return {name: np.asarray(blob) for name, blob in blobs.items()}


def write(path, blobs):
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "MODEL: {}"}, protocol=2))
    return path
