"""Layers with rows for each anchor of a cell, whose anchors another ecosystem orders otherwise.

Shapes: S sizes, R ratios, A = S * R anchors of a cell, N rows of an anchor.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor


def sizes_inside(
    tensors: Mapping[str, Tensor],
    layers: Sequence[str],
    box_layer: str,
    theirs: Sequence[float],
    ours: Sequence[float],
) -> dict[str, Tensor]:
    """Anchors ordered by size, those of one size by ratio, as we order them: by ratio first.

    Args:
        tensors: under our names.
        layers: names of the layers that have rows for anchors.
        box_layer: the one that has four for each.
        theirs: the R ratios in their order.
        ours: the same ratios in ours.

    Returns:
        Weights and biases of the layers, (A * N, ...); nothing where the anchors are no multiple
        of R.
    """
    boxes = tensors.get(f"{box_layer}.weight")
    anchors = 0 if boxes is None else len(boxes) // 4
    if anchors == 0 or anchors % len(theirs):
        return {}
    places = [list(theirs).index(ratio) for ratio in ours]
    result = {}
    for name in (f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")):
        rows = tensors.get(name)
        if rows is not None and len(rows) % anchors == 0:
            by_size = rows.reshape(-1, len(theirs), len(rows) // anchors, *rows.shape[1:])
            result[name] = by_size[:, places].transpose(0, 1).reshape(rows.shape).contiguous()
    return result
