"""The heads that a file of maskrcnn-benchmark describes, in our settings."""

from typing import Any

from pipeline.config.maskrcnn_benchmark.original import Original

Tree = dict[str, Any]

_PYRAMID_SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def norm_of(original: Original, switch: str) -> str:
    """The norm that a switch (``USE_GN``) turns on."""
    return "group_norm" if original[switch] else "none"


def box_tree(original: Original, pyramid: bool) -> Tree:
    """The ``model.box`` part."""
    heads, head = "MODEL.ROI_HEADS.", "MODEL.ROI_BOX_HEAD."
    positive = original[heads + "FG_IOU_THRESHOLD"]
    original.expect(
        heads + "BG_IOU_THRESHOLD", positive, why="a proposal is an object or background"
    )
    _pooling(original, "BOX", pyramid)
    original.expect(
        head + "PREDICTOR", "FPNPredictor", "FastRCNNPredictor", why="no such predictor here"
    )
    tree = {
        "class_agnostic": original["MODEL.CLS_AGNOSTIC_BBOX_REG"],
        "pool_side": original[head + "POOLER_RESOLUTION"],
        "positive_iou": positive,
        "samples_per_image": original[heads + "BATCH_SIZE_PER_IMAGE"],
        "positive_fraction": original[heads + "POSITIVE_FRACTION"],
        "delta_weights": list(original[heads + "BBOX_REG_WEIGHTS"]),
        "score_threshold": original[heads + "SCORE_THRESH"],
        "nms_iou": original[heads + "NMS"],
        "detections_per_image": original[heads + "DETECTIONS_PER_IMG"],
    }
    extractor = original[head + "FEATURE_EXTRACTOR"]
    if extractor in ("FPN2MLPFeatureExtractor", "FPNXconv1fcFeatureExtractor"):
        tree["hidden"] = original[head + "MLP_HEAD_DIM"]
        two_layers = extractor == "FPN2MLPFeatureExtractor"
        tree["fc_norm" if two_layers else "norm"] = norm_of(original, head + "USE_GN")
    elif pyramid or extractor != "ResNet50Conv5ROIFeatureExtractor":
        original.leave(head + "FEATURE_EXTRACTOR", "no such head here; two hidden layers are")
    if extractor == "FPNXconv1fcFeatureExtractor":
        original.expect(head + "DILATION", 1, why="the head's convolutions are not dilated")
        tree |= {
            "conv_layers": original[head + "NUM_STACKED_CONVS"],
            "conv_channels": original[head + "CONV_HEAD_DIM"],
            "fc_layers": 1,
        }
    return tree


def _pooling(original: Original, head: str, pyramid: bool) -> None:
    scales = _PYRAMID_SCALES if pyramid else (1 / 16,)
    original.expect(
        f"MODEL.ROI_{head}_HEAD.POOLER_SCALES", scales, why="scales follow from the maps"
    )


def _convolutions(original: Original, key: str) -> tuple[int, int]:
    """How many, of how many channels."""
    channels = original[key]
    if len(set(channels)) != 1:
        original.leave(key, "all have the same number of channels, and there is one at least")
        channels = channels or (256,)
    return len(channels), channels[0]


def mask_tree(original: Original, pyramid: bool) -> Tree:
    """The ``model.mask`` part."""
    head = "MODEL.ROI_MASK_HEAD."
    layers, channels = _convolutions(original, head + "CONV_LAYERS")
    side = original[head + "POOLER_RESOLUTION"]
    extractor = "MaskRCNNFPNFeatureExtractor" if pyramid else "ResNet50Conv5ROIFeatureExtractor"
    original.expect(head + "FEATURE_EXTRACTOR", extractor, why=f"no such head here: {extractor}")
    original.expect(head + "PREDICTOR", "MaskRCNNC4Predictor", why="no such predictor here")
    original.expect(
        head + "SHARE_BOX_FEATURE_EXTRACTOR", not pyramid, why="it follows from the backbone"
    )
    tree: Tree = {
        "channels": channels,
        "layers": layers if pyramid else 0,
        "threshold": original[head + "POSTPROCESS_MASKS_THRESHOLD"],
    }
    made = 2 * side if pyramid else original["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"]
    original.expect(head + "RESOLUTION", made, why=f"the masks come out as {made} x {made}")
    original.expect(head + "POSTPROCESS_MASKS", False, why="masks are pasted by inference")
    if pyramid:
        _pooling(original, "MASK", pyramid)
        original.expect(head + "DILATION", 1, why="the head's convolutions are not dilated")
        tree |= {"pool_side": side, "norm": norm_of(original, head + "USE_GN")}
    return tree


def keypoint_tree(original: Original) -> Tree:
    """The ``model.keypoint`` part."""
    head = "MODEL.ROI_KEYPOINT_HEAD."
    layers, channels = _convolutions(original, head + "CONV_LAYERS")
    side = original[head + "POOLER_RESOLUTION"]
    _pooling(original, "KEYPOINT", pyramid=True)
    for key, value, why in (
        ("FEATURE_EXTRACTOR", "KeypointRCNNFeatureExtractor", "no such head here"),
        ("PREDICTOR", "KeypointRCNNPredictor", "no such predictor here"),
        ("SHARE_BOX_FEATURE_EXTRACTOR", False, "the branch has its own layers"),
        ("RESOLUTION", 4 * side, f"the heatmaps come out as {4 * side} x {4 * side}"),
        ("NUM_CLASSES", 17, "COCO's keypoints stand there; give model.keypoint.names yours"),
    ):
        original.expect(head + key, value, why=why)
    return {"channels": channels, "layers": layers, "pool_side": side}


def retinanet_tree(original: Original) -> Tree:
    """The ``model.retinanet`` part."""
    head = "MODEL.RETINANET."
    original.expect(head + "OCTAVE", 2.0, why="sizes double from level to level")
    original.expect(
        head + "ANCHOR_STRIDES", (8, 16, 32, 64, 128), why="strides follow from the maps"
    )
    original.expect(head + "STRADDLE_THRESH", -1, why="anchors over the border are kept")
    divisor = original[head + "BBOX_REG_WEIGHT"]
    if divisor <= 0:
        original.leave(head + "BBOX_REG_WEIGHT", "the box loss is divided by it")
        divisor = 1
    return {
        "p6_from": "c5" if original[head + "USE_C5"] else "p5",
        "layers": original[head + "NUM_CONVS"],
        "anchor_sizes": list(original[head + "ANCHOR_SIZES"]),
        "anchor_scales": original[head + "SCALES_PER_OCTAVE"],
        "anchor_ratios": list(original[head + "ASPECT_RATIOS"]),
        "positive_iou": original[head + "FG_IOU_THRESHOLD"],
        "negative_iou": original[head + "BG_IOU_THRESHOLD"],
        "focal_alpha": original[head + "LOSS_ALPHA"],
        "focal_gamma": original[head + "LOSS_GAMMA"],
        "prior": original[head + "PRIOR_PROB"],
        # Fixed in its code.
        "delta_weights": [10.0, 10.0, 5.0, 5.0],
        "smooth_l1_beta": original[head + "BBOX_REG_BETA"],
        "box_loss_weight": 1 / divisor,
        "score_threshold": original[head + "INFERENCE_TH"],
        "pre_nms": original[head + "PRE_NMS_TOP_N"],
        "nms_iou": original[head + "NMS_TH"],
        "detections_per_image": original["TEST.DETECTIONS_PER_IMG"],
    }
