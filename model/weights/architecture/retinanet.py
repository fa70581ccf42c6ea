"""RetinaNet's settings inferred from weights. Tensors have our names."""

from collections.abc import Mapping

from torch import Tensor

from model.config import RetinaNetConfig
from model.weights.architecture.anchors import AnchorCountError
from model.weights.architecture.backbone import count_layers
from model.weights.report import WeightsError


def is_retinanet(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether these weights have RetinaNet's heads."""
    return any(name.startswith("retinanet.") for name in tensors)


def infer_retinanet(
    tensors: Mapping[str, Tensor], given: RetinaNetConfig | None
) -> tuple[int, RetinaNetConfig]:
    """Return the number of classes, and ``given`` with the layers of these weights.

    Args:
        tensors: tensors of a RetinaNet.
        given: settings that cannot be inferred from weights: thresholds, loss weights, anchor
            ratios.

    Raises:
        WeightsError: parts are missing.
        AnchorCountError: the number of anchors per cell is not a multiple of the number of ratios.
    """
    settings = given or RetinaNetConfig()
    for name in ("retinanet.class_logits.weight", "retinanet.box_deltas.weight"):
        if name not in tensors:
            raise WeightsError(f"these weights have no {name}")
    for name in ("fpn.p6.weight", "fpn.p7.weight"):
        if name not in tensors:
            raise WeightsError(f"these weights have no P6 or P7: no tensor becomes {name}")
    anchors = len(tensors["retinanet.box_deltas.weight"]) // 4
    outputs = len(tensors["retinanet.class_logits.weight"])
    scales, rest = divmod(anchors, len(settings.anchor_ratios))
    if rest or outputs % anchors:
        raise AnchorCountError(
            f"{anchors} anchors per cell and {outputs} class outputs do not fit "
            f"{len(settings.anchor_ratios)} anchor ratios: set model.retinanet.anchor_ratios"
        )
    p6, p7 = tensors["fpn.p6.weight"], tensors["fpn.p7.weight"]
    update = {
        # The test that torchvision makes; a C5 as narrow as the pyramid would be mistaken for P5.
        "p6_from": "p5" if p6.shape[1] == p7.shape[1] else "c5",
        "layers": count_layers(tensors, "retinanet.class_tower.{}.weight"),
        "norm": "group_norm" if "retinanet.class_norms.0.weight" in tensors else "none",
        "anchor_scales": scales,
    }
    return outputs // anchors, settings.model_copy(update=update)
