"""The names of maskrcnn-benchmark's layers.

Where a layer and its norm are one module, they are its ".0" and ".1".
"""

import re
from collections.abc import Mapping

from torch import Tensor

from model.weights.conversion import Replacement

UNNEEDED = ((r"rpn\.anchor_generator\..*", "anchors follow from the config"),)

_TAIL = r"\.(weight|bias)"
_XCONVS = "roi_heads.box.feature_extractor.xconvs"


def renames_of(tensors: Mapping[str, Tensor]) -> tuple[tuple[str, Replacement], ...]:
    """Patterns and replacements for a model of these tensors, under their own names."""
    if any(name.startswith("rpn.head.cls_tower.") for name in tensors):
        return (*_body(), *_pyramid(finest=2), *_RETINANET)
    # ReLUs are counted along, and norms where there are such.
    step = 3 if f"{_XCONVS}.1.weight" in tensors else 2
    return (*_body(), *_pyramid(finest=1), *_RPN, *_BOX, _box_convolutions(step), *_BRANCHES)


def _body() -> tuple[tuple[str, Replacement], ...]:
    deformable = ((r"\.conv2\.conv\.", ".conv2."), (r"\.conv2\.offset\.", ".conv2_offset."))

    def block(match: re.Match[str]) -> str:
        stage, layer = match.groups()
        for theirs, ours in deformable:
            layer = re.sub(theirs, ours, layer)
        return f"{where[stage]}.{layer}"

    where = {f"backbone.body.layer{stage}": f"backbone.layer{stage}" for stage in range(1, 5)}
    where["roi_heads.box.feature_extractor.head.layer4"] = "roi_heads.box.res5"
    return (
        (r"backbone\.body\.stem\.(.*)", r"backbone.\1"),
        (rf"({'|'.join(map(re.escape, where))})\.(.*)", block),
    )


def _pyramid(finest: int) -> tuple[tuple[str, Replacement], ...]:
    """With the level that is its finest."""

    def layer(match: re.Match[str]) -> str:
        part, level, place, kind = match.groups()
        ours = {"inner": "lateral", "layer": "output"}[part]
        return f"fpn.{_or_norms(ours, ours, place)}.{int(level) - finest}.{kind}"

    return (
        (r"backbone\.fpn\.fpn_(inner|layer)(\d)(?:\.([01]))?" + _TAIL, layer),
        (r"backbone\.fpn\.top_blocks\.(p[67])" + _TAIL, r"fpn.\1.\2"),
    )


def _or_norms(layers: str, of: str, place: str | None) -> str:
    """The list of layers, or of their norms where the place in the module is the norm's."""
    return ("norms" if layers == "convs" else f"{of}_norms") if place == "1" else layers


def _box_convolutions(step: int) -> tuple[str, Replacement]:
    def layer(match: re.Match[str]) -> str:
        number, place = divmod(int(match[1]), step)
        return f"roi_heads.box.{('convs', 'norms')[place]}.{number}.{match[2]}"

    # What is counted along has no tensors: a place beyond the norm's is no layer of this head.
    places = "|".join(str(n) for n in range(64) if n % step < step - 1)
    return (re.escape(_XCONVS) + rf"\.({places})" + _TAIL, layer)


def _mask_layer(match: re.Match[str]) -> str:
    layers = _or_norms("convs", "", match[2])
    return f"roi_heads.mask.{layers}.{int(match[1]) - 1}.{match[3]}"


def _keypoint_layer(match: re.Match[str]) -> str:
    return f"roi_heads.keypoint.convs.{int(match[1]) - 1}.{match[2]}"


def _tower_layer(match: re.Match[str]) -> str:
    part = {"cls": "class", "bbox": "box"}[match[1]]
    return f"retinanet.{part}_tower.{int(match[2]) // 2}.{match[3]}"


_RETINANET: tuple[tuple[str, Replacement], ...] = (
    # ReLUs are counted along.
    (r"rpn\.head\.(cls|bbox)_tower\.(\d*[02468])" + _TAIL, _tower_layer),
    (r"rpn\.head\.cls_logits" + _TAIL, r"retinanet.class_logits.\1"),
    (r"rpn\.head\.bbox_pred" + _TAIL, r"retinanet.box_deltas.\1"),
)
_RPN: tuple[tuple[str, Replacement], ...] = (
    (r"rpn\.head\.conv" + _TAIL, r"rpn.head.convs.0.\1"),
    (r"rpn\.head\.cls_logits" + _TAIL, r"rpn.head.objectness.\1"),
    (r"rpn\.head\.bbox_pred" + _TAIL, r"rpn.head.deltas.\1"),
)
_BOX: tuple[tuple[str, Replacement], ...] = (
    (r"roi_heads\.box\.feature_extractor\.fc6" + _TAIL, r"roi_heads.box.fc1.\1"),
    (r"roi_heads\.box\.feature_extractor\.fc7" + _TAIL, r"roi_heads.box.fc2.\1"),
    (r"roi_heads\.box\.predictor\.cls_score" + _TAIL, r"roi_heads.box.class_logits.\1"),
    (r"roi_heads\.box\.predictor\.bbox_pred" + _TAIL, r"roi_heads.box.box_deltas.\1"),
)
_BRANCHES: tuple[tuple[str, Replacement], ...] = (
    (r"roi_heads\.mask\.feature_extractor\.mask_fcn(\d)(?:\.([01]))?" + _TAIL, _mask_layer),
    (r"roi_heads\.mask\.predictor\.conv5_mask" + _TAIL, r"roi_heads.mask.upsample.\1"),
    (r"roi_heads\.mask\.predictor\.mask_fcn_logits" + _TAIL, r"roi_heads.mask.logits.\1"),
    (r"roi_heads\.keypoint\.feature_extractor\.conv_fcn(\d)" + _TAIL, _keypoint_layer),
    (
        r"roi_heads\.keypoint\.predictor\.kps_score_lowres" + _TAIL,
        r"roi_heads.keypoint.upsample.\1",
    ),
)
