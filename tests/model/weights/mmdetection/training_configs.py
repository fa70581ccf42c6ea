"""Training configs as MMDetection 2 and 3 save them: a Python file, as text."""

import copy


def as_text(tree):
    """Write the entries as assignments, dicts as calls."""
    return "\n".join(f"{name} = {_expression(value)}" for name, value in tree.items()) + "\n"


def _expression(value):
    if isinstance(value, dict):
        return f"dict({', '.join(f'{key}={_expression(item)}' for key, item in value.items())})"
    if isinstance(value, list | tuple):
        items = ", ".join(map(_expression, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' * (len(value) == 1)})"
    return repr(value)


def _coder(*stds):
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": list(stds)}


def _pooling(side):
    layer = {"type": "RoIAlign", "output_size": side, "sampling_ratio": 0}
    return {"type": "SingleRoIExtractor", "roi_layer": layer, "featmap_strides": [4, 8, 16, 32]}


def _model(model):
    """Return the part that both versions have."""
    backbone = {"type": "ResNet", "depth": model.depth, "style": model.style, "norm_eval": True}
    tree = {"type": "MaskRCNN", "backbone": backbone}
    if model.features == "fpn":
        tree["neck"] = {"type": "FPN", "num_outs": 5}
    if model.one_stage:
        tree["type"] = "RetinaNet"
        tree["bbox_head"] = {
            "type": "RetinaHead",
            "anchor_generator": {
                "type": "AnchorGenerator",
                "octave_base_scale": 4,
                "scales_per_octave": 3,
                "ratios": [0.5, 1.0, 2.0],
                "strides": [8, 16, 32, 64, 128],
            },
            "bbox_coder": _coder(1.0, 1.0, 1.0, 1.0),
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        }
        tree["test_cfg"] = {
            "nms_pre": 1000,
            "score_thr": 0.05,
            "nms": {"type": "nms", "iou_threshold": 0.5},
            "max_per_img": 100,
        }
        return tree
    single = model.features != "fpn"
    tree["rpn_head"] = {
        "type": "RPNHead",
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [2, 4, 8, 16, 32] if single else [8],
            "ratios": [0.5, 1.0, 2.0],
            "strides": [16] if single else [4, 8, 16, 32, 64],
        },
        "bbox_coder": _coder(1.0, 1.0, 1.0, 1.0),
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    }
    nms = {"type": "nms", "iou_threshold": 0.7}
    limits = {"nms_pre": 6000 if single else 1000, "max_per_img": 1000, "nms": nms}
    train = {"nms_pre": 12000, "max_per_img": 2000} if single else {"nms_pre": 2000}
    tree["train_cfg"] = {"rpn_proposal": limits | train}
    tree["test_cfg"] = {"rpn": limits | {"min_bbox_size": 0}}
    if model.rois:
        tree["roi_head"] = {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": _pooling(14 if model.features == "c4" else 7),
            "bbox_head": {
                "type": "BBoxHead",
                "bbox_coder": _coder(0.1, 0.1, 0.2, 0.2),
                "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
            },
            "mask_roi_extractor": _pooling(14) if model.masks and not single else None,
        }
        tree["test_cfg"]["rcnn"] = {
            "score_thr": 0.05,
            "nms": {"type": "nms", "iou_threshold": 0.5},
            "max_per_img": 100,
            "mask_thr_binary": 0.5,
        }
    return tree


def version_2(model, size=(1333, 800)):
    """Return the tree that MMDetection 2 saves in ``meta["config"]``."""
    mean, std, is_rgb = model.pixels
    pixels = {"mean": list(mean), "std": list(std), "to_rgb": is_rgb}
    steps = [
        {"type": "Resize", "keep_ratio": True},
        {"type": "Normalize"} | pixels,
        {"type": "Pad", "size_divisor": 32},
    ]
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "MultiScaleFlipAug", "img_scale": size, "flip": False, "transforms": steps},
    ]
    return copy.deepcopy(
        {"model": _model(model), "img_norm_cfg": pixels, "data": {"test": {"pipeline": pipeline}}}
    )


def version_3(model, size=(1333, 800)):
    """Return the tree that MMDetection 3 saves in ``meta["cfg"]``."""
    mean, std, is_rgb = model.pixels
    pixels = {"mean": list(mean), "std": list(std), "bgr_to_rgb": is_rgb, "pad_size_divisor": 32}
    pipeline = [{"type": "Resize", "scale": size, "keep_ratio": True}]
    tree = _model(model)
    tree["data_preprocessor"] = {"type": "DetDataPreprocessor"} | pixels
    return copy.deepcopy(
        {
            "model": tree,
            "test_dataloader": {"dataset": {"pipeline": pipeline}},
            "test_cfg": {"type": "TestLoop"},
        }
    )
