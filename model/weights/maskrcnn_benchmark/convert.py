"""maskrcnn-benchmark's R-CNNs, proposal networks and RetinaNet.

Class 0 is the background and boxes and masks have a row for it, RetinaNet has none, and the anchors
of a cell are ordered by ratio first: all as ours.
"""

from collections.abc import Mapping

from torch import Tensor

from model.config import MASKRCNN_BENCHMARK, ModelConfig
from model.weights.architecture.detector import describe_detector
from model.weights.conversion import Conversion, StoredWeights, check_dimensions, rename_tensors
from model.weights.legacy import one_box_for_all, refuse_unbuilt
from model.weights.legacy_settings import conventions_of_model, with_settings_of_model
from model.weights.maskrcnn_benchmark.names import UNNEEDED, renames_of
from model.weights.report import WeightsError

_UNBUILT = {
    "roi_heads.maskiou.": "Mask Scoring R-CNN",
}
# Its box coder has the weights of Faster R-CNN's; a box loss is divided by four.
_RETINANET = {
    "delta_weights": (10.0, 10.0, 5.0, 5.0),
    "smooth_l1_beta": 0.11,
    "box_loss_weight": 0.25,
    "nms_iou": 0.4,
}
_RES5_OF_BOXES = "roi_heads.box.feature_extractor.head."
_RES5_OF_MASKS = "roi_heads.mask.feature_extractor.head."


def is_maskrcnn_benchmark(stored: StoredWeights) -> bool:
    """Whether these are weights of maskrcnn-benchmark."""
    return "backbone.body.stem.conv1.weight" in stored.tensors


def convert_maskrcnn_benchmark(stored: StoredWeights, config: ModelConfig) -> Conversion:
    """Under our names.

    Args:
        stored: what :func:`is_maskrcnn_benchmark` recognised.
        config: what the weights cannot tell.

    Raises:
        WeightsError: an architecture that we do not build.
    """
    refuse_unbuilt(stored.tensors, _UNBUILT)
    _refuse_relu_in_pyramid(stored.tensors)
    shared = _copies_of_res5(stored.tensors)
    own = {name: tensor for name, tensor in stored.tensors.items() if name not in shared}
    renamed = rename_tensors(own, renames_of(own), UNNEEDED)
    check_dimensions(renamed)
    renamed.unneeded.update(shared)
    renamed.tensors.update(one_box_for_all(renamed.tensors))
    return describe_detector(
        "maskrcnn-benchmark",
        renamed,
        conventions_of_model(renamed.tensors, MASKRCNN_BENCHMARK),
        with_settings_of_model(renamed.tensors, config, _RETINANET),
    )


def _copies_of_res5(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The mask head's names of the box head's res5, which both use, with the reason to skip them.

    Raises:
        WeightsError: the mask head has a res5 of its own.
    """
    names = [name for name in tensors if name.startswith(_RES5_OF_MASKS)]
    for name in names:
        of_boxes = tensors.get(name.replace(_RES5_OF_MASKS, _RES5_OF_BOXES))
        if of_boxes is None or not of_boxes.equal(tensors[name]):
            raise WeightsError(
                f"a mask head with a res5 of its own is not built ({name} is not the box head's): "
                "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR must have been True"
            )
    return dict.fromkeys(names, "the box head's, which both heads use")


def _refuse_relu_in_pyramid(tensors: Mapping[str, Tensor]) -> None:
    """A module of convolution, norm and ReLU; without the norm it could only be the ReLU's."""
    for name in tensors:
        of_layer, number, kind = name.rpartition(".0.")
        if of_layer.startswith("backbone.fpn.") and f"{of_layer}.1.{kind}" not in tensors:
            raise WeightsError(f"a pyramid with ReLUs is not built ({of_layer}{number}{kind})")
