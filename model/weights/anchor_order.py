"""Rows of the anchors of a cell, reordered from another library's order to ours.

Shapes: S sizes, R ratios, A = S * R anchors per cell, N rows per anchor.
"""

from collections.abc import Sequence

from torch import Tensor


def order_anchors_by_ratio(
    tensors: dict[str, Tensor],
    layers: Sequence[str],
    box_layer: str,
    theirs: Sequence[float],
    ours: Sequence[float],
) -> bool:
    """Reorder the anchors of a cell from size first to ratio first, in place.

    Args:
        tensors: under our names; (A * N, ...) weights and biases of the layers are
            replaced.
        layers: names of the layers that have rows per anchor.
        box_layer: the one of them that has four rows per anchor.
        theirs: the R ratios in their order.
        ours: the same ratios in our order.

    Returns:
        Whether there was anything to reorder: not if A is unknown or not a multiple of R.
    """
    boxes = tensors.get(f"{box_layer}.weight")
    anchors = 0 if boxes is None else len(boxes) // 4
    if anchors == 0 or anchors % len(theirs):
        return False
    order = [list(theirs).index(ratio) for ratio in ours]
    for name in (f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")):
        rows = tensors.get(name)
        if rows is not None and len(rows) % anchors == 0:
            by_size = rows.reshape(-1, len(theirs), len(rows) // anchors, *rows.shape[1:])
            tensors[name] = by_size[:, order].transpose(0, 1).reshape(rows.shape).contiguous()
    return True
