"""Conventions and settings that MMDetection's training config states, by dotted key of ours.

MMDetection 2 has the normalization of pixels in the data pipeline, MMDetection 3 in the model's
``data_preprocessor``; before 2.7 ``test_cfg`` was outside of the model, and its limits had other
names.
"""

from collections.abc import Mapping
from typing import Any

from model.config.settings import ConfigError, check_settings
from model.weights.mmdetection.config_text import Tree, inference_transforms, value_at
from model.weights.report import WeightsError
from model.weights.stated_settings import EVERY_SECTION

Settings = dict[str, Any]

_PYRAMID_LEVELS = 5
# Path in the model, the values whose math this detector has (None: not stated), and what it is.
_BOX, _MASK = "roi_head.bbox_roi_extractor", "roi_head.mask_roi_extractor"
_CODERS = ("DeltaXYWHBBoxCoder",)
_KNOWN: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    *(
        (f"{part}.conv_cfg.type", ("Conv", "Conv2d"), "convolution")
        for part in ("backbone", "neck", "roi_head.bbox_head", "roi_head.mask_head", "bbox_head")
    ),
    ("neck.type", ("FPN",), "neck"),
    ("neck.upsample_cfg.mode", ("nearest",), "upsampling in the pyramid"),
    *(
        entry
        for head in ("rpn_head", "bbox_head")
        for entry in (
            (f"{head}.anchor_generator.type", ("AnchorGenerator",), "anchors"),
            (f"{head}.anchor_generator.center_offset", (0,), "offset of the anchors"),
            (f"{head}.anchor_generator.scale_major", (True,), "order of the anchors"),
            (f"{head}.bbox_coder.type", _CODERS, "box coder"),
        )
    ),
    ("roi_head.bbox_head.bbox_coder.type", _CODERS, "box coder"),
    ("roi_head.bbox_head.cls_predictor_cfg.type", ("Linear",), "class predictor"),
    *(
        entry
        for extractor in (_BOX, _MASK)
        for entry in (
            (f"{extractor}.type", ("SingleRoIExtractor",), "choice of pyramid levels"),
            (f"{extractor}.finest_scale", (56,), "choice of pyramid levels"),
            (f"{extractor}.roi_layer.type", ("RoIAlign",), "pooling of ROIs"),
        )
    ),
)


def refuse_other_math(tree: Tree) -> None:
    """Refuse a model that computes otherwise although its tensors have the same names and shapes.

    Args:
        tree: values of the config by name.

    Raises:
        WeightsError: names what the model has, and what is supported.
    """
    for path, known, what in _KNOWN:
        value = value_at(tree["model"], path)
        if isinstance(value, str):
            value = value.rpartition(".")[2]  # "mmdet.FPN" names a registry
        if value is not None and value not in known:
            raise WeightsError(
                f"{what} {value!r} is not supported (model.{path} in the training config of the "
                f"file); only {known[0]!r} is"
            )


def read_conventions_stated(tree: Tree) -> Settings:
    """Return the fields of ``Conventions`` that the config states.

    Raises:
        WeightsError: a value is not valid.
    """
    model = tree["model"]
    values: Settings = {}
    normalize = _normalization(tree)
    if normalize is not None:
        mean, std, is_rgb = normalize
        values |= {"pixel_mean": mean, "pixel_std": std, "pixel_order": "rgb" if is_rgb else "bgr"}
    if (style := value_at(model, "backbone.style")) is not None:
        values["stride_in_1x1"] = style == "caffe"
    values["norm_epsilon"] = value_at(model, "backbone.norm_cfg.eps")
    values["relu_before_p7"] = value_at(model, "neck.relu_before_extra_convs")
    pooling = value_at(model, f"{_BOX}.roi_layer")
    masks = value_at(model, f"{_MASK}.roi_layer")
    for name, key in (("roi_sampling_ratio", "sampling_ratio"), ("roi_aligned", "aligned")):
        values[name] = value_at(pooling, key)
        if masks is not None and value_at(masks, key) != values[name]:
            raise WeightsError(f"boxes and masks pool their ROIs with another {key}: not supported")
    for name, head in (("rpn_", "rpn_head"), ("box_", "roi_head.bbox_head")):
        values[f"{name}smooth_l1_beta"] = _smooth_l1_beta(value_at(model, f"{head}.loss_bbox"))
    return _checked({f"conventions.{name}": value for name, value in values.items()})


def read_settings_stated(tree: Tree) -> Settings:
    """Return the settings besides conventions that the config states.

    Raises:
        WeightsError: a value is not valid, or the anchors are not supported.
    """
    model = tree["model"]
    one_stage = value_at(model, "bbox_head.anchor_generator") is not None
    values: Settings = {"input.size_divisor": _size_divisor(tree)}
    values |= _input_size(tree)
    values |= _retinanet(model) if one_stage else _two_stage(model)
    values |= _limits(tree, one_stage)
    return _checked(values)


def list_differences(tree: Tree) -> tuple[str, ...]:
    """Return notes on what the config states and inference cannot follow."""
    notes = []
    limits = _test_limits(tree)
    for path in ("nms.type", "rcnn.nms.type", "rpn.nms.type"):
        kind = value_at(limits, path)
        if kind not in (None, "nms"):
            notes.append(f"the training config of the file has {kind} in test_cfg; NMS is used")
    for step in inference_transforms(tree):
        if step.get("type") == "Resize" and step.get("keep_ratio") is False:
            notes.append("the model was tested on images of changed aspect ratio; ours is kept")
    return tuple(notes)


def _normalization(tree: Tree) -> tuple[Any, Any, bool] | None:
    """Return mean, standard deviation, and whether pixels are RGB."""
    given = value_at(tree["model"], "data_preprocessor")
    if given is None:
        steps = (s for s in inference_transforms(tree) if s.get("type") == "Normalize")
        given = next(steps, tree.get("img_norm_cfg"))
    mean, std = value_at(given, "mean"), value_at(given, "std")
    if mean is None or std is None:
        return None
    is_rgb = value_at(given, "bgr_to_rgb" if "bgr_to_rgb" in given else "to_rgb")
    # The images are read as BGR; Normalize converts them by default, data_preprocessor does not.
    by_default = value_at(tree["model"], "data_preprocessor") is None
    return mean, std, by_default if is_rgb is None else bool(is_rgb)


def _size_divisor(tree: Tree) -> Any:
    given = value_at(tree["model"], "data_preprocessor")
    if given is not None:
        return given.get("pad_size_divisor", 1) if isinstance(given, dict) else None
    steps = inference_transforms(tree)
    return next((s.get("size_divisor") for s in steps if s.get("type") == "Pad"), None)


def _input_size(tree: Tree) -> Settings:
    """Return short and long side of the first size in which images are tested."""
    for step in inference_transforms(tree):
        size = step.get("scale", step.get("img_scale"))
        if isinstance(size, list) and size and isinstance(size[0], list):
            size = size[0]
        if isinstance(size, list) and len(size) == 2 and all(_is_number(side) for side in size):
            return {"input.short_side": min(size), "input.long_side": max(size)}
    return {}


def _two_stage(model: Tree) -> Settings:
    values: Settings = {}
    generator = value_at(model, "rpn_head.anchor_generator")
    scales, bases = value_at(generator, "scales"), _base_sizes(generator)
    if _are_numbers(scales) and bases:
        if len(bases) not in (1, _PYRAMID_LEVELS):
            raise WeightsError(
                f"an RPN on {len(bases)} levels is not supported; only on one or "
                f"{_PYRAMID_LEVELS} is"
            )
        if len(bases) > 1 and len(scales) > 1:
            raise WeightsError(
                f"anchors of {len(scales)} scales on each of {len(bases)} levels are not "
                "supported; only one scale per level is"
            )
        values["rpn.anchor_sizes"] = tuple(scale * base for base in bases for scale in scales)
    values["rpn.anchor_ratios"] = value_at(generator, "ratios")
    _refuse_scaled_deltas(value_at(model, "rpn_head.bbox_coder"))
    coder = value_at(model, "roi_head.bbox_head.bbox_coder")
    values["box.delta_weights"] = _delta_weights(coder)
    for head, extractor in (("box", _BOX), ("mask", _MASK)):
        values[f"{head}.pool_side"] = value_at(model, f"{extractor}.roi_layer.output_size")
    train = value_at(model, "train_cfg.rpn_proposal")
    values["rpn.pre_nms_train"] = value_at(train, "nms_pre")
    values["rpn.post_nms_train"] = _first(train, "max_per_img", "max_num")
    return values


def _retinanet(model: Tree) -> Settings:
    values: Settings = {}
    generator = value_at(model, "bbox_head.anchor_generator")
    octave, bases = value_at(generator, "octave_base_scale"), _base_sizes(generator)
    if _is_number(octave) and bases:
        values["retinanet.anchor_sizes"] = tuple(octave * base for base in bases)
    elif value_at(generator, "scales") is not None:
        raise WeightsError("RetinaNet with anchors other than octave_base_scale is not supported")
    values["retinanet.anchor_ratios"] = value_at(generator, "ratios")
    values["retinanet.delta_weights"] = _delta_weights(value_at(model, "bbox_head.bbox_coder"))
    loss = value_at(model, "bbox_head.loss_bbox")
    if value_at(loss, "type") == "GIoULoss":
        values["retinanet.box_loss"] = "giou"
    values["retinanet.smooth_l1_beta"] = _smooth_l1_beta(loss)
    return values


def _limits(tree: Tree, one_stage: bool) -> Settings:
    """Return thresholds and limits of inference."""
    limits = _test_limits(tree)
    proposals, boxes = value_at(limits, "rpn"), value_at(limits, "rcnn")
    boxes, section = (limits, "retinanet") if one_stage else (boxes, "box")
    values: Settings = {
        f"{section}.score_threshold": value_at(boxes, "score_thr"),
        f"{section}.nms_iou": _first(value_at(boxes, "nms"), "iou_threshold", "iou_thr"),
        f"{section}.detections_per_image": value_at(boxes, "max_per_img"),
    }
    if one_stage:
        return values | {"retinanet.pre_nms": value_at(boxes, "nms_pre")}
    nms_iou = value_at(proposals, "nms.iou_threshold")
    return values | {
        "rpn.pre_nms_test": value_at(proposals, "nms_pre"),
        "rpn.post_nms_test": _first(proposals, "max_per_img", "max_num"),
        "rpn.nms_iou": value_at(proposals, "nms_thr") if nms_iou is None else nms_iou,
        "rpn.min_box_side": value_at(proposals, "min_bbox_size"),
        "mask.threshold": value_at(boxes, "mask_thr_binary"),
    }


def _test_limits(tree: Tree) -> Any:
    # At the top level, MMDetection 3 has a test_cfg of another kind.
    inside = value_at(tree["model"], "test_cfg")
    return tree.get("test_cfg") if inside is None else inside


def _base_sizes(generator: object) -> list[float]:
    sizes = value_at(generator, "base_sizes")
    sizes = value_at(generator, "strides") if sizes is None else sizes
    return sizes if _are_numbers(sizes) else []


def _delta_weights(coder: object) -> tuple[float, ...] | None:
    """Return the reciprocals of a box coder's standard deviations."""
    means, stds = value_at(coder, "target_means"), value_at(coder, "target_stds")
    if means is not None and (not _are_numbers(means) or any(means)):
        raise WeightsError(f"box deltas with the means {means} are not supported; only 0 is")
    if stds is None:
        return None
    if not _are_numbers(stds) or min(stds) <= 0:
        raise WeightsError(f"box deltas with the standard deviations {stds} are not supported")
    return tuple(1 / std for std in stds)


def _refuse_scaled_deltas(coder: object) -> None:
    weights = _delta_weights(coder)
    if weights is not None and set(weights) != {1.0}:
        raise WeightsError(f"an RPN with the delta weights {weights} is not supported; only 1 is")


def _smooth_l1_beta(loss: object) -> Any:
    match value_at(loss, "type"):
        case "L1Loss":
            return 0.0
        case "SmoothL1Loss":
            beta = value_at(loss, "beta")
            return 1.0 if beta is None else beta
    return None


def _first(tree: object, *names: str) -> Any:
    values = (value_at(tree, name) for name in names)
    return next((value for value in values if value is not None), None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(map(_is_number, values))


def _checked(values: Mapping[str, Any]) -> Settings:
    """Return the values that are stated, validated section by section."""
    sections: dict[str, Settings] = {}
    for key, value in values.items():
        if value is not None:
            section, _, name = key.rpartition(".")
            sections.setdefault(section, {})[name] = value
    checked: Settings = {}
    for section, stated in sections.items():
        try:
            settings = check_settings(type(getattr(EVERY_SECTION, section)), stated)
        except ConfigError as error:
            raise WeightsError(
                "the training config in the file has a value that is not supported: "
                f"{section}.{error.problems[0]}"
            ) from error
        checked |= {f"{section}.{name}": getattr(settings, name) for name in stated}
    return checked
