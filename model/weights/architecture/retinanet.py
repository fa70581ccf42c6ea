"""The RetinaNet that weights under our names fill, read from their names and shapes."""

from collections.abc import Mapping

from torch import Tensor

from model.config import RetinaNetConfig
from model.weights.report import WeightsError


def is_retinanet(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these weights, under our names, have RetinaNet's towers."""
    return any(name.startswith("retinanet.") for name in tensors)


def infer_retinanet(
    tensors: Mapping[str, Tensor], given: RetinaNetConfig | None
) -> tuple[int, RetinaNetConfig]:
    """The number of classes, and ``given`` with the architecture of these weights.

    Args:
        tensors: a RetinaNet's, under our names.
        given: what the weights cannot tell: thresholds, weights of the losses, anchor ratios.

    Raises:
        WeightsError: parts are missing, or the anchors of a cell are no product of scales and
            ratios.
    """
    settings = given or RetinaNetConfig()
    for name in ("class_logits", "box_deltas"):
        if f"retinanet.{name}.weight" not in tensors:
            raise WeightsError(f"these weights have no retinanet.{name}.weight")
    for name in ("fpn.p6.weight", "fpn.p7.weight"):
        if name not in tensors:
            raise WeightsError(f"these weights have no P6 or P7: nothing becomes {name}")
    anchors = len(tensors["retinanet.box_deltas.weight"]) // 4
    outputs = len(tensors["retinanet.class_logits.weight"])
    scales, rest = divmod(anchors, len(settings.anchor_ratios))
    if rest or outputs % anchors:
        raise WeightsError(
            f"{anchors} anchors per cell and {outputs} class outputs fit no number of scales of "
            f"{len(settings.anchor_ratios)} ratios: set model.retinanet.anchor_ratios"
        )
    p6, p7 = tensors["fpn.p6.weight"], tensors["fpn.p7.weight"]
    layers = sum(f"retinanet.class_tower.{layer}.weight" in tensors for layer in range(32))
    update = {
        # As torchvision tells them apart; a C5 as narrow as the pyramid would be taken for P5.
        "p6_from": "p5" if p6.shape[1] == p7.shape[1] else "c5",
        "layers": layers,
        "norm": "group_norm" if "retinanet.class_norms.0.weight" in tensors else "none",
        "anchor_scales": scales,
    }
    return outputs // anchors, settings.model_copy(update=update)
