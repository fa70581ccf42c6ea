"""maskrcnn-benchmark's R-CNNs, proposal networks and RetinaNet.

As in ours, class 0 is the background, for which boxes and masks have rows and RetinaNet has none,
and the anchors of a cell are ordered by ratio first.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from model.config import MASKRCNN_BENCHMARK, ModelConfig
from model.weights.architecture.anchors import read_stored_anchors
from model.weights.architecture.detector import finish_conversion
from model.weights.architecture.retinanet import is_retinanet
from model.weights.conversion import (
    ConvertedWeights,
    check_dimensions,
    refuse_unsupported,
    rename_tensors,
)
from model.weights.detectron.shared_conventions import (
    apply_default_settings,
    drop_background_box,
    infer_conventions,
)
from model.weights.maskrcnn_benchmark.names import IGNORED, renames_from
from model.weights.report import WeightsError
from model.weights.storage.weights_file import StoredWeights

_UNSUPPORTED = {
    "roi_heads.maskiou.": "Mask Scoring R-CNN",
}
# Its box coder has the delta weights of Faster R-CNN, and its box loss is divided by four.
_RETINANET_SETTINGS = {
    "delta_weights": (10.0, 10.0, 5.0, 5.0),
    "smooth_l1_beta": 0.11,
    "box_loss_weight": 0.25,
    "nms_iou": 0.4,
}
_RES5_OF_BOX_HEAD = "roi_heads.box.feature_extractor.head."
_RES5_OF_MASK_HEAD = "roi_heads.mask.feature_extractor.head."


def is_maskrcnn_benchmark(stored: StoredWeights) -> bool:
    """Return whether these are weights of maskrcnn-benchmark."""
    return "backbone.body.stem.conv1.weight" in stored.tensors


def convert_maskrcnn_benchmark(stored: StoredWeights, config: ModelConfig) -> ConvertedWeights:
    """Convert weights of maskrcnn-benchmark.

    Args:
        stored: what :func:`is_maskrcnn_benchmark` recognizes.
        config: settings that cannot be inferred from weights.

    Raises:
        WeightsError: the architecture is not supported.
    """
    refuse_unsupported(stored.tensors, _UNSUPPORTED)
    _refuse_relu_in_pyramid(stored.tensors)
    copies = _copies_of_res5(stored.tensors)
    originals = {name: tensor for name, tensor in stored.tensors.items() if name not in copies}
    renamed = rename_tensors(originals, renames_from(originals), IGNORED)
    check_dimensions(renamed)
    renamed.ignored.update(copies)
    drop_background_box(renamed.tensors)
    one_stage = is_retinanet(renamed.tensors)
    config, notes = read_stored_anchors(stored.tensors, config, one_stage, by_size=False)
    converted = finish_conversion(
        "maskrcnn-benchmark",
        renamed,
        infer_conventions(renamed.tensors, MASKRCNN_BENCHMARK),
        apply_default_settings(renamed.tensors, config, _RETINANET_SETTINGS),
    )
    return replace(converted, assumptions=notes)


def _copies_of_res5(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the mask head's names of the res5 it shares with the box head, with the reason.

    Raises:
        WeightsError: the mask head has its own res5.
    """
    names = [name for name in tensors if name.startswith(_RES5_OF_MASK_HEAD)]
    for name in names:
        of_box_head = tensors.get(name.replace(_RES5_OF_MASK_HEAD, _RES5_OF_BOX_HEAD))
        if of_box_head is None or not of_box_head.equal(tensors[name]):
            raise WeightsError(
                f"a mask head with its own res5 is not supported ({name} differs from the box "
                "head's): train with MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR True"
            )
    return dict.fromkeys(names, "copy of the box head's, which both heads use")


def _refuse_relu_in_pyramid(tensors: Mapping[str, Tensor]) -> None:
    """Refuse layers of the pyramid that are a sequence without a norm: its second part is a ReLU.

    Raises:
        WeightsError: there is such a layer.
    """
    for name in tensors:
        layer, number, kind = name.rpartition(".0.")
        if layer.startswith("backbone.fpn.") and f"{layer}.1.{kind}" not in tensors:
            raise WeightsError(
                f"a pyramid with ReLUs is not supported (found the tensor {layer}{number}{kind})"
            )
