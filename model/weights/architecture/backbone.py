"""The backbone that weights under our names fill, and the norms of every part."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.backbones.resnet import BLOCKS
from model.config import BackboneConfig
from model.weights.report import WeightsError

# Where res5 is: the box head's with c4, else the backbone's.
RES5_OF_BOX_HEAD = "roi_heads.box.res5"


def infer_backbone(tensors: Mapping[str, Tensor], backbone: BackboneConfig) -> BackboneConfig:
    """``backbone`` with the depth, width, groups and deformable stages of these weights.

    Args:
        tensors: under our names.
        backbone: what the weights cannot tell.

    Raises:
        WeightsError: a backbone that we do not build.
    """
    update: dict[str, Any] = {
        "depth": _depth(tensors),
        "width": tensors["backbone.conv1.weight"].shape[0],
        **_groups(tensors),
        **_deformable(tensors),
    }
    return backbone.model_copy(update=update)


def infer_features(tensors: Mapping[str, Tensor], backbone: BackboneConfig) -> str:
    """Which maps a whole detector reads: ``BackboneConfig.features``.

    Without a pyramid res5 is the box head's, or a proposal network by itself has none: c4. If it is
    the backbone's, dilation leaves no trace in weights: dc5 only where ``backbone`` says so, else
    c5.
    """
    if any(name.startswith("fpn.") for name in tensors):
        return "fpn"
    if "backbone.layer4.0.conv1.weight" not in tensors:
        return "c4"
    return "dc5" if backbone.features == "dc5" else "c5"


def infer_norm(tensors: Mapping[str, Tensor], layer: str) -> str:
    """The kind of the norm that bears the name ``layer``: a ``norm`` setting.

    A norm without statistics is of groups; one that counts its batches was trained along.
    """
    if f"{layer}.weight" not in tensors:
        return "none"
    if f"{layer}.running_var" not in tensors:
        return "group_norm"
    return "batch_norm" if f"{layer}.num_batches_tracked" in tensors else "frozen_bn"


def infer_backbone_norm(tensors: Mapping[str, Tensor]) -> str:
    """The kind of the backbone's norms: ``BackboneConfig.norm``.

    Those of frozen stages may have been stored as affine maps, though others were trained along.
    """
    parts = ("backbone.", f"{RES5_OF_BOX_HEAD}.")
    counted = (n for n in tensors if n.endswith("num_batches_tracked") and n.startswith(parts))
    return "batch_norm" if any(counted) else infer_norm(tensors, "backbone.bn1")


def count_layers(tensors: Mapping[str, Tensor], template: str) -> int:
    """How many names are there: ``template`` with 0, 1 .. in place of its braces."""
    count = 0
    while template.format(count) in tensors:
        count += 1
    return count


def _stages(tensors: Mapping[str, Tensor]) -> list[str]:
    stages = [*(f"backbone.layer{stage}" for stage in range(1, 5)), RES5_OF_BOX_HEAD]
    return [stage for stage in stages if f"{stage}.0.conv1.weight" in tensors]


def _depth(tensors: Mapping[str, Tensor]) -> int:
    blocks = tuple(count_layers(tensors, stage + ".{}.conv1.weight") for stage in _stages(tensors))
    bottleneck = "backbone.layer1.0.conv3.weight" in tensors
    for depth, known in BLOCKS.items():
        # A proposal network by itself may end with res4.
        if known[: max(len(blocks), 3)] == blocks and (depth >= 50) == bottleneck:
            return depth
    raise WeightsError(f"a ResNet with {blocks} blocks per stage is none of {sorted(BLOCKS)}")


def _groups(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    middle = tensors.get("backbone.layer1.0.conv2.weight")
    if middle is None or middle.shape[0] == middle.shape[1]:
        return {"groups": 1}
    width, group_width = middle.shape[:2]
    return {"groups": width // group_width, "group_width": group_width}


def _deformable(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    found = {
        number: tensors[f"{stage}.0.conv2_offset.weight"].shape[0]
        for number, stage in enumerate(_stages(tensors), start=2)
        if f"{stage}.0.conv2_offset.weight" in tensors
    }
    if not found:
        return {"deformable": "none"}
    kinds = {18: "v1", 27: "v2"}
    rows = set(found.values())
    if len(rows) != 1 or not rows <= kinds.keys():
        raise WeightsError(
            f"deformable convolutions with {sorted(rows)} rows of offsets: one group of them "
            "has 18 (v1) or 27 (v2)"
        )
    return {"deformable": kinds[rows.pop()], "deformable_stages": tuple(found)}
