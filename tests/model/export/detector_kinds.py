"""Settings of detectors that differ in what their exported program contains."""

_BOX = {"hidden": 64, "detections_per_image": 40}
_MASK = {"channels": 16, "layers": 1}
_KEYPOINT = {"channels": 16, "layers": 1, "names": ("a", "b", "c")}
_RETINANET = {
    "layers": 1,
    "norm": "group_norm",
    "anchor_sizes": (8, 16, 32, 48, 64),
    "pre_nms": 200,
    "score_threshold": 0.005,
    "detections_per_image": 40,
}
_RPN = {"anchor_sizes": (8, 16, 32, 48, 64), "pre_nms_test": 100, "post_nms_test": 60}
KINDS = {
    "retinanet": {"box": None, "mask": None, "retinanet": _RETINANET},
    "proposals": {"box": None, "mask": None, "rpn": _RPN | {"layers": 2}},
    "c4": {
        "backbone": {"depth": 18, "width": 16, "features": "c4"},
        "box": _BOX | {"pool_side": 14, "class_agnostic": True},
    },
    "keypoints": {"mask": None, "keypoint": _KEYPOINT},
    "dc5_resnext_deformable": {
        "backbone": {
            "depth": 50,
            "width": 16,
            "features": "dc5",
            "groups": 4,
            "group_width": 4,
            "deformable": "v2",
            "deformable_stages": (5,),
        },
        "mask": None,
    },
    "norms_and_convolutions": {
        "fpn": {"channels": 32, "norm": "batch_norm"},
        "box": _BOX | {"conv_layers": 1, "conv_channels": 16, "fc_layers": 1, "norm": "group_norm"},
        "mask": _MASK | {"norm": "group_norm", "class_agnostic": True},
    },
    "legacy_geometry": {
        "backbone": {"depth": 50, "width": 16, "features": "dc5"},
        "conventions": {
            "legacy_geometry": True,
            "roi_aligned": False,
            "keypoint_coordinates": "pixel_numbers",
        },
        "mask": _MASK,
        "keypoint": _KEYPOINT,
    },
}
