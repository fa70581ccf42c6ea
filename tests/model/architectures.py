"""Settings of narrow two-stage detectors with every backbone, pyramid and head."""

NARROW = {"depth": 50, "norm": "group_norm", "frozen_stages": 0, "width": 8}
BOX = {"hidden": 32, "samples_per_image": 32, "score_threshold": 0.001}
MASK = {"channels": 16, "layers": 2}
_GROUPS = {"groups": 4, "group_width": 4}
_CONV_HEAD = {"conv_layers": 4, "conv_channels": 16, "fc_layers": 1}
ARCHITECTURES = {
    "resnext": {"backbone": NARROW | _GROUPS},
    "deformable_v1": {"backbone": NARROW | {"deformable": "v1"}},
    "deformable_v2": {
        "backbone": NARROW | {"deformable": "v2", "deformable_stages": (5,), **_GROUPS}
    },
    "c4": {"backbone": NARROW | {"features": "c4"}, "box": BOX | {"pool_side": 14}},
    "c4_of_basic_blocks": {
        "backbone": NARROW | {"features": "c4", "depth": 18},
        "box": BOX | {"pool_side": 14, "class_agnostic": True},
        "mask": MASK | {"class_agnostic": True},
    },
    "c4_without_masks": {
        "backbone": NARROW | {"features": "c4", "norm": "batch_norm"},
        "box": BOX | {"pool_side": 14},
        "mask": None,
    },
    "c5": {"backbone": NARROW | {"features": "c5"}},
    "dc5": {
        "backbone": NARROW | {"features": "dc5"},
        "conventions": {"dilate_first_block": True},
        "rpn": {"anchor_ratios": (1.0, 2.0)},
    },
    "group_norm": {
        "backbone": NARROW,
        "fpn": {"channels": 32, "norm": "group_norm"},
        "box": BOX | _CONV_HEAD | {"norm": "group_norm"},
        "mask": MASK | {"norm": "group_norm"},
    },
    "torchvision_v2": {
        "backbone": NARROW | {"norm": "batch_norm"},
        "fpn": {"channels": 32, "norm": "batch_norm"},
        "rpn": {"layers": 2},
        "box": BOX | _CONV_HEAD | {"norm": "batch_norm"},
        "mask": MASK | {"norm": "batch_norm"},
    },
    "frozen_norms": {
        "backbone": NARROW | {"norm": "frozen_bn", "frozen_stages": 2},
        "fpn": {"channels": 32, "norm": "frozen_bn"},
        "box": BOX | {"conv_layers": 1, "fc_layers": 3, "norm": "frozen_bn"},
    },
    "class_agnostic": {
        "backbone": NARROW,
        "box": BOX | {"class_agnostic": True},
        "mask": MASK | {"class_agnostic": True, "layers": 0},
    },
}


def architecture_config(tiny_config, name, **changes):
    """Return the settings of an architecture.

    Args:
        tiny_config: the fixture.
        name: key of ``ARCHITECTURES``.
        changes: parts that replace those of the architecture.
    """
    settings = ARCHITECTURES[name] | changes
    rpn = tiny_config().rpn.model_dump() | settings.get("rpn", {})
    return tiny_config(**{"box": BOX, "mask": MASK} | settings | {"rpn": rpn})
