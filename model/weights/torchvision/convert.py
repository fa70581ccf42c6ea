"""torchvision's Faster, Mask and Keypoint R-CNN, its RetinaNet, and plain ResNets, also timm's.

Shapes: A anchors per cell, K classes.
"""

from dataclasses import replace

from torch import Tensor

from model.config import TORCHVISION, Conventions, ModelConfig, RetinaNetConfig
from model.config.conventions import NORM_EPSILON
from model.weights.architecture.detector import finish_conversion
from model.weights.coco_categories import sparse_coco_categories
from model.weights.conversion import ConvertedWeights, rename_tensors
from model.weights.stated_settings import explicit_settings, pad_to_multiple
from model.weights.storage.weights_file import StoredWeights
from model.weights.torchvision.names import (
    BACKBONE_IGNORED,
    BACKBONE_RENAMES,
    DETECTOR_RENAMES,
)


def is_torchvision_detector(stored: StoredWeights) -> bool:
    """Return whether these are weights of a torchvision detector with a feature pyramid."""
    names = stored.tensors
    return "backbone.body.conv1.weight" in names and any(
        name.startswith("backbone.fpn.") for name in names
    )


def is_torchvision_backbone(stored: StoredWeights) -> bool:
    """Return whether these are weights of a plain ResNet, such as torchvision's or timm's."""
    return "conv1.weight" in stored.tensors and "layer1.0.conv1.weight" in stored.tensors


def convert_torchvision(stored: StoredWeights, config: ModelConfig) -> ConvertedWeights:
    """Convert weights of a torchvision detector.

    Args:
        stored: what :func:`is_torchvision_detector` recognizes.
        config: settings that cannot be inferred from weights.

    Raises:
        WeightsError: the architecture is not supported.
    """
    renamed = rename_tensors(stored.tensors, DETECTOR_RENAMES)
    if "head.classification_head.cls_logits.weight" in stored.tensors:
        _drop_background_of_retinanet(renamed.tensors)
    # v1 weights were made when FrozenBatchNorm2d added no epsilon; BatchNorm2d always did.
    trained_norm = "backbone.body.bn1.num_batches_tracked" in stored.tensors
    conventions = TORCHVISION.model_copy(
        update={"norm_epsilon": NORM_EPSILON} if trained_norm else {}
    )
    config = pad_to_multiple(config, 32)
    converted = finish_conversion("torchvision", renamed, conventions, config)
    inferred = converted.config
    if inferred is None:
        return converted
    sparse = sparse_coco_categories()
    return replace(
        converted,
        config=_apply_retinanet_settings(inferred, config.retinanet),
        categories=sparse if inferred.num_classes == len(sparse) else converted.categories,
    )


def convert_torchvision_backbone(stored: StoredWeights, config: ModelConfig) -> ConvertedWeights:
    """Convert weights of a plain ResNet of torchvision or timm.

    Args:
        stored: what :func:`is_torchvision_backbone` recognizes.
        config: has no effect on a backbone.
    """
    renamed = rename_tensors(stored.tensors, BACKBONE_RENAMES, BACKBONE_IGNORED)
    # Our defaults are those of torchvision's classifiers: RGB, mean and standard deviation.
    return finish_conversion("torchvision or timm", renamed, Conventions(), config)


def _drop_background_of_retinanet(tensors: dict[str, Tensor]) -> None:
    """Remove the logit of class 0, which is never the target, from RetinaNet, in place.

    Args:
        tensors: under our names; class logits of A * (K + 1) rows, the classes of an anchor
            together.
    """
    anchors = len(tensors["retinanet.box_deltas.bias"]) // 4
    for name in ("retinanet.class_logits.weight", "retinanet.class_logits.bias"):
        rows = tensors[name]
        by_anchor = rows.reshape(anchors, -1, *rows.shape[1:])
        tensors[name] = by_anchor[:, 1:].flatten(0, 1).contiguous()


def _apply_retinanet_settings(config: ModelConfig, given: RetinaNetConfig | None) -> ModelConfig:
    """Return the config with the settings of torchvision's RetinaNet, if it is one.

    Args:
        config: config inferred from the weights.
        given: settings by the user; those stated explicitly are kept, except the box loss of v2.
    """
    if config.retinanet is None:
        return config
    update = {"detections_per_image": 300} | (explicit_settings(given) if given else {})
    if config.retinanet.norm != "none":
        # Only v2 has norms; it was trained with GIoU.
        update["box_loss"] = "giou"
    return config.model_copy(update={"retinanet": config.retinanet.model_copy(update=update)})
