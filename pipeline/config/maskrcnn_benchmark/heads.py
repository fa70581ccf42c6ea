"""Convert the heads of a maskrcnn-benchmark config: box, mask, keypoint, RetinaNet."""

from pipeline.config.maskrcnn_benchmark.original import OriginalConfig, Tree

_PYRAMID_SCALES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)


def convert_norm(original: OriginalConfig, switch: str) -> str:
    """Return the norm that a switch such as ``USE_GN`` selects."""
    return "group_norm" if original[switch] else "none"


def convert_box_head(original: OriginalConfig, pyramid: bool) -> Tree:
    """Return the ``model.box`` section."""
    heads, head = "MODEL.ROI_HEADS.", "MODEL.ROI_BOX_HEAD."
    positive = original[heads + "FG_IOU_THRESHOLD"]
    original.expect(
        heads + "BG_IOU_THRESHOLD",
        positive,
        reason="one threshold separates positive and negative proposals",
    )
    _check_pooler_scales(original, "BOX", pyramid)
    original.expect(
        head + "PREDICTOR", "FPNPredictor", "FastRCNNPredictor", reason="unsupported predictor"
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
        tree["fc_norm" if two_layers else "norm"] = convert_norm(original, head + "USE_GN")
    elif pyramid or extractor != "ResNet50Conv5ROIFeatureExtractor":
        original.skip(
            head + "FEATURE_EXTRACTOR", "unsupported head; two fully connected layers are used"
        )
    if extractor == "FPNXconv1fcFeatureExtractor":
        original.expect(head + "DILATION", 1, reason="unsupported dilation in the head")
        tree |= {
            "conv_layers": original[head + "NUM_STACKED_CONVS"],
            "conv_channels": original[head + "CONV_HEAD_DIM"],
            "fc_layers": 1,
        }
    return tree


def _check_pooler_scales(original: OriginalConfig, head: str, pyramid: bool) -> None:
    scales = _PYRAMID_SCALES if pyramid else (1 / 16,)
    original.expect(
        f"MODEL.ROI_{head}_HEAD.POOLER_SCALES", scales, reason="derived from the feature maps"
    )


def _count_convolutions(original: OriginalConfig, key: str) -> tuple[int, int]:
    """Return the number of convolutions and their channels."""
    channels = original[key]
    if len(set(channels)) != 1:
        original.skip(key, "needs at least one layer, and the same number of channels in all")
        channels = channels or (256,)
    return len(channels), channels[0]


def convert_mask_head(original: OriginalConfig, pyramid: bool) -> Tree:
    """Return the ``model.mask`` section."""
    head = "MODEL.ROI_MASK_HEAD."
    layers, channels = _count_convolutions(original, head + "CONV_LAYERS")
    pool_side = original[head + "POOLER_RESOLUTION"]
    extractor = "MaskRCNNFPNFeatureExtractor" if pyramid else "ResNet50Conv5ROIFeatureExtractor"
    original.expect(
        head + "FEATURE_EXTRACTOR", extractor, reason=f"unsupported head; {extractor} is used"
    )
    original.expect(head + "PREDICTOR", "MaskRCNNC4Predictor", reason="unsupported predictor")
    original.expect(
        head + "SHARE_BOX_FEATURE_EXTRACTOR", not pyramid, reason="determined by the backbone"
    )
    tree: Tree = {
        "channels": channels,
        "layers": layers if pyramid else 0,
        "threshold": original[head + "POSTPROCESS_MASKS_THRESHOLD"],
    }
    side = 2 * pool_side if pyramid else original["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"]
    original.expect(head + "RESOLUTION", side, reason=f"the head predicts {side} x {side} masks")
    original.expect(head + "POSTPROCESS_MASKS", False, reason="inference always pastes the masks")
    if pyramid:
        _check_pooler_scales(original, "MASK", pyramid)
        original.expect(head + "DILATION", 1, reason="unsupported dilation in the head")
        tree |= {"pool_side": pool_side, "norm": convert_norm(original, head + "USE_GN")}
    return tree


def convert_keypoint_head(original: OriginalConfig) -> Tree:
    """Return the ``model.keypoint`` section."""
    head = "MODEL.ROI_KEYPOINT_HEAD."
    layers, channels = _count_convolutions(original, head + "CONV_LAYERS")
    pool_side = original[head + "POOLER_RESOLUTION"]
    side = 4 * pool_side
    _check_pooler_scales(original, "KEYPOINT", pyramid=True)
    for key, value, reason in (
        ("FEATURE_EXTRACTOR", "KeypointRCNNFeatureExtractor", "unsupported head"),
        ("PREDICTOR", "KeypointRCNNPredictor", "unsupported predictor"),
        ("SHARE_BOX_FEATURE_EXTRACTOR", False, "the keypoint head has its own layers"),
        ("RESOLUTION", side, f"the head predicts {side} x {side} heatmaps"),
        ("NUM_CLASSES", 17, "COCO's 17 keypoints are used; set model.keypoint.names to yours"),
    ):
        original.expect(head + key, value, reason=reason)
    return {"channels": channels, "layers": layers, "pool_side": pool_side}


def convert_retinanet(original: OriginalConfig) -> Tree:
    """Return the ``model.retinanet`` section."""
    head = "MODEL.RETINANET."
    original.expect(head + "OCTAVE", 2.0, reason="anchor sizes double from level to level")
    original.expect(
        head + "ANCHOR_STRIDES", (8, 16, 32, 64, 128), reason="derived from the feature maps"
    )
    original.expect(
        head + "STRADDLE_THRESH", -1, reason="anchors that cross the image border are kept"
    )
    divisor = original[head + "BBOX_REG_WEIGHT"]
    if divisor <= 0:
        original.skip(
            head + "BBOX_REG_WEIGHT", "must be positive, as the divisor of the box loss; 1 is used"
        )
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
        # Hard-coded in maskrcnn-benchmark.
        "delta_weights": [10.0, 10.0, 5.0, 5.0],
        "smooth_l1_beta": original[head + "BBOX_REG_BETA"],
        "box_loss_weight": 1 / divisor,
        "score_threshold": original[head + "INFERENCE_TH"],
        "pre_nms": original[head + "PRE_NMS_TOP_N"],
        "nms_iou": original[head + "NMS_TH"],
        "detections_per_image": original["TEST.DETECTIONS_PER_IMG"],
    }
