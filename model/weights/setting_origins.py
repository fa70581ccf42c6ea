"""Where each setting comes from when weights are loaded for inference: the weights or a config.

A recipe describes a training, so it states conventions that weights of another library do not
have. `Origin` lists who can decide a setting, and `ORIGINS` says who decides each key of
`ModelConfig`.
"""

from enum import Enum

from model.config import Conventions


class Origin(Enum):
    """Who decides a setting when weights are loaded for inference."""

    TENSORS = "the weights: names and shapes of the tensors show it"
    LIBRARY = "the weights: a convention of the library that trained them, or saved with them"
    INFERENCE = "the config if it states the setting, else the weights' library"
    TRAINING = "as INFERENCE, but the setting has no effect on inference"


# By section of ModelConfig; "" is its root, where the key of a head is whether it exists.
_KEYS: dict[Origin, dict[str, str]] = {
    Origin.TENSORS: {
        "": "num_classes box mask keypoint retinanet",
        "backbone": "timm function arguments depth width groups group_width deformable "
        "deformable_stages",
        "fpn": "channels norm",
        "rpn": "layers",
        "box": "conv_layers conv_channels fc_layers hidden norm fc_norm class_agnostic",
        "mask": "channels layers norm class_agnostic",
        "keypoint": "channels layers",
        "retinanet": "p6_from layers norm anchor_scales",
    },
    # Tensors show most of features (not c5 or dc5), norm (not if statistics are missing) and
    # box.pool_side (not with c4). Keypoint names are saved with our weights alone: for weights of
    # other libraries, the names of a config are used if their number is right.
    Origin.LIBRARY: {
        "conventions": " ".join(Conventions.model_fields),
        "input": "size_divisor",
        "backbone": "features norm",
        "rpn": "anchor_sizes anchor_ratios",
        "box": "pool_side delta_weights",
        "mask": "pool_side",
        "keypoint": "pool_side names",
        "retinanet": "anchor_sizes anchor_ratios delta_weights",
    },
    Origin.INFERENCE: {
        "": "test_augmentation tiles",
        "input": "short_side long_side",
        "rpn": "nms_iou pre_nms_test post_nms_test min_box_side",
        "box": "score_threshold nms_iou detections_per_image",
        "mask": "threshold",
        "retinanet": "score_threshold pre_nms nms_iou detections_per_image",
    },
    Origin.TRAINING: {
        "backbone": "frozen_stages",
        "rpn": "positive_iou negative_iou samples_per_image positive_fraction "
        "pre_nms_train post_nms_train",
        "box": "positive_iou samples_per_image positive_fraction class_weights",
        "retinanet": "positive_iou negative_iou focal_alpha focal_gamma prior "
        "box_loss smooth_l1_beta box_loss_weight class_weights",
    },
}

ORIGINS: dict[str, Origin] = {
    f"{section}.{name}" if section else name: origin
    for origin, sections in _KEYS.items()
    for section, names in sections.items()
    for name in names.split()
}
"""Dotted key of ModelConfig -> who decides it."""

HEADS = ("box", "mask", "keypoint", "retinanet")
"""The sections of ModelConfig that can be null."""
