"""Narrow models of maskrcnn-benchmark: their layers as state dicts, under its names."""

import torch

from tests.model.weights.detectron.model_layers import Kind

MASKS = ("boxes", "masks")
KINDS = {
    "faster class-agnostic": Kind(("boxes",), class_agnostic=True),
    "mask": Kind(MASKS),
    "mask X-101": Kind(MASKS, depth=101, groups=4),
    "keypoint": Kind(("boxes", "keypoints")),
    "mask GN": Kind(MASKS, norm="group", box_convolutions=4),
    "faster GN, two hidden layers": Kind(("boxes",), norm="group"),
    "faster of convolutions": Kind(("boxes",), box_convolutions=4),
    "mask DCN v2": Kind(MASKS, offset_rows=27),
    "proposals": Kind(("proposals",)),
    "proposals C4": Kind(("proposals",), features="c4"),
    "faster C4": Kind(("boxes",), features="c4"),
    "mask C4": Kind(MASKS, features="c4"),
    "mask C4 DCN v1": Kind(MASKS, features="c4", offset_rows=18),
    "retinanet": Kind(("retinanet",)),
    "retinanet P5": Kind(("retinanet",), p6_from="p5"),
}
BOX_EXTRACTOR = "roi_heads.box.feature_extractor"
NAMES = {
    ("stem",): "backbone.body.stem.conv1",
    ("rpn",): "rpn.head.conv",
    ("objectness",): "rpn.head.cls_logits",
    ("anchor deltas",): "rpn.head.bbox_pred",
    ("class logits",): "rpn.head.cls_logits",
    ("box deltas",): "rpn.head.bbox_pred",
    ("top", 6): "backbone.fpn.top_blocks.p6",
    ("top", 7): "backbone.fpn.top_blocks.p7",
    ("scores",): "roi_heads.box.predictor.cls_score",
    ("boxes",): "roi_heads.box.predictor.bbox_pred",
    ("mask upsampling",): "roi_heads.mask.predictor.conv5_mask",
    ("masks",): "roi_heads.mask.predictor.mask_fcn_logits",
    ("heatmaps",): "roi_heads.keypoint.predictor.kps_score_lowres",
}


def layer_names(key, kind):
    """Return the names of a layer and its norm."""
    match key:
        case ("stem",):
            return "backbone.body.stem.conv1", "backbone.body.stem.bn1"
        case ("block" | "offset", stage, number, *branch):
            owner = f"{BOX_EXTRACTOR}.head" if (kind.features, stage) == ("c4", 5) else None
            block = f"{owner or 'backbone.body'}.layer{stage - 1}.{number}"
            if key[0] == "offset":
                return f"{block}.conv2.offset", None
            if branch == [0]:
                return f"{block}.downsample.0", f"{block}.downsample.1"
            deformed = kind.offset_rows and stage > 2 and branch == [2]
            layer = f"{block}.conv{branch[0]}" + (".conv" if deformed else "")
            return layer, f"{block}.bn{branch[0]}"
        case ("lateral", stage):
            return in_sequence(f"backbone.fpn.fpn_inner{stage - 1}", kind)
        case ("output", stage):
            return in_sequence(f"backbone.fpn.fpn_layer{stage - 1}", kind)
        case ("box", layer):
            step = 3 if kind.norm == "group" else 2
            first = step * (layer - 1)
            return f"{BOX_EXTRACTOR}.xconvs.{first}", f"{BOX_EXTRACTOR}.xconvs.{first + 1}"
        case ("fc", layer):
            return in_sequence(f"{BOX_EXTRACTOR}.fc{5 + layer}", kind)
        case ("mask", layer):
            return in_sequence(f"roi_heads.mask.feature_extractor.mask_fcn{layer}", kind)
        case ("keypoint", layer):
            return f"roi_heads.keypoint.feature_extractor.conv_fcn{layer}", None
        case ("class tower", layer):
            return f"rpn.head.cls_tower.{2 * layer}", None
        case ("box tower", layer):
            return f"rpn.head.bbox_tower.{2 * layer}", None
    return NAMES[key], None


def in_sequence(name, kind):
    return (f"{name}.0", f"{name}.1") if kind.norm == "group" else (name, None)


def make_state_dict(kind, layers):
    state = {"rpn.anchor_generator.cell_anchors.0": torch.zeros(3, 4)}
    for key, layer in layers.items():
        name, norm = layer_names(key, kind)
        state[f"{name}.weight"] = layer.weight
        if layer.bias is not None:
            state[f"{name}.bias"] = layer.bias
        for what, values in (layer.norm or {}).items():
            state[f"{norm}.{what}"] = values
    if (kind.features, "masks" in kind.heads) == ("c4", True):
        # A module shared by two heads is stored twice.
        shared = [name for name in state if name.startswith(f"{BOX_EXTRACTOR}.head.")]
        for name in shared:
            state[name.replace("roi_heads.box.", "roi_heads.mask.")] = state[name]
    return state
