"""The backbone inferred from weights, and the norms of every part. Tensors have our names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.backbones.resnet import BLOCKS
from model.config import BackboneConfig
from model.weights.report import WeightsError

# With features c4, res5 is the box head; otherwise it is backbone.layer4.
RES5_OF_BOX_HEAD = "roi_heads.box.res5"
_FIRST_3X3 = "backbone.layer1.0.conv2.weight"


def infer_backbone(tensors: Mapping[str, Tensor], backbone: BackboneConfig) -> BackboneConfig:
    """Return ``backbone`` with the depth, width, groups and deformable stages of these weights.

    Args:
        tensors: under our names.
        backbone: settings that cannot be inferred from weights.

    Raises:
        WeightsError: the backbone is not supported.
    """
    update: dict[str, Any] = {
        "depth": _depth(tensors),
        "width": tensors["backbone.conv1.weight"].shape[0],
        **_groups(tensors),
        **_deformable(tensors),
    }
    return backbone.model_copy(update=update)


def has_pyramid(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether there is a feature pyramid."""
    return any(name.startswith("fpn.") for name in tensors)


def is_resnext(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the 3x3 convolutions of the backbone are grouped."""
    weight = tensors.get(_FIRST_3X3)
    return weight is not None and weight.ndim == 4 and weight.shape[0] != weight.shape[1]


def infer_features(tensors: Mapping[str, Tensor], backbone: BackboneConfig) -> str:
    """Return which maps a whole detector reads: a ``BackboneConfig.features``.

    Without a pyramid it is c4 if the backbone has no res5, which is then the box head, or absent
    from a proposal network. Otherwise it is c5, or dc5 if ``backbone`` says so, since dilation
    leaves no trace in weights.
    """
    if has_pyramid(tensors):
        return "fpn"
    if "backbone.layer4.0.conv1.weight" not in tensors:
        return "c4"
    return "dc5" if backbone.features == "dc5" else "c5"


def infer_norm(tensors: Mapping[str, Tensor], layer: str) -> str:
    """Return the kind of the norm named ``layer``, as a ``norm`` setting.

    A norm without statistics is group norm; one that counts batches was trained.
    """
    if f"{layer}.weight" not in tensors:
        return "none"
    if f"{layer}.running_var" not in tensors:
        return "group_norm"
    return "batch_norm" if f"{layer}.num_batches_tracked" in tensors else "frozen_bn"


def infer_backbone_norm(tensors: Mapping[str, Tensor]) -> str:
    """Return the kind of the backbone's norms: a ``BackboneConfig.norm``.

    A single trained norm is enough: the norms of frozen stages may be stored as affine maps
    although the others were trained.
    """
    parts = ("backbone.", f"{RES5_OF_BOX_HEAD}.")
    counted = (n for n in tensors if n.endswith("num_batches_tracked") and n.startswith(parts))
    return "batch_norm" if any(counted) else infer_norm(tensors, "backbone.bn1")


def count_layers(tensors: Mapping[str, Tensor], template: str, first: int = 0) -> int:
    """Count the consecutive layers whose names are ``template`` with a number in its braces."""
    count = 0
    while template.format(first + count) in tensors:
        count += 1
    return count


def _stages(tensors: Mapping[str, Tensor]) -> list[str]:
    stages = [*(f"backbone.layer{stage}" for stage in range(1, 5)), RES5_OF_BOX_HEAD]
    return [stage for stage in stages if f"{stage}.0.conv1.weight" in tensors]


def _depth(tensors: Mapping[str, Tensor]) -> int:
    blocks = tuple(count_layers(tensors, stage + ".{}.conv1.weight") for stage in _stages(tensors))
    bottleneck = "backbone.layer1.0.conv3.weight" in tensors
    for depth, known in BLOCKS.items():
        # A proposal network without heads may end with res4.
        if known[: max(len(blocks), 3)] == blocks and (depth >= 50) == bottleneck:
            return depth
    raise WeightsError(f"a ResNet with {blocks} blocks per stage is none of {sorted(BLOCKS)}")


def _groups(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    if not is_resnext(tensors):
        return {"groups": 1}
    width, group_width = tensors[_FIRST_3X3].shape[:2]
    return {"groups": width // group_width, "group_width": group_width}


def _deformable(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    offset_rows = {
        number: tensors[f"{stage}.0.conv2_offset.weight"].shape[0]
        for number, stage in enumerate(_stages(tensors), start=2)
        if f"{stage}.0.conv2_offset.weight" in tensors
    }
    if not offset_rows:
        return {"deformable": "none"}
    kinds = {18: "v1", 27: "v2"}
    rows = set(offset_rows.values())
    if len(rows) != 1 or not rows <= kinds.keys():
        raise WeightsError(
            "deformable convolutions must have 18 (v1) or 27 (v2) rows of offsets, one deformable "
            f"group; got {sorted(rows)}"
        )
    return {"deformable": kinds[rows.pop()], "deformable_stages": tuple(offset_rows)}
