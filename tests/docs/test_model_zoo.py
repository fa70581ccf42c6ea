"""docs/MODEL_ZOO.md has the cost of the recipes as they are."""

import runpy
from pathlib import Path

import pytest
import torch
import yaml
from torchvision.models import detection

ROOT = Path(__file__).resolve().parents[2]
TOOL = runpy.run_path(str(ROOT / "tools" / "write_model_zoo.py"))
PUBLISHED = {
    recipe: ap
    for recipes in yaml.safe_load(TOOL["PUBLISHED"].read_text()).values()
    for recipe, ap in recipes.items()
}
PAGE = TOOL["PAGE"].read_text()
# One of each kind of network on the smallest backbone; `write_model_zoo.py --check` computes all.
COMPUTED = (
    "mask_rcnn_r50_fpn_1x",
    "mask_rcnn_r18_light",
    "mask_rcnn_r50_c4_1x",
    "dcn/mask_rcnn_r50_fpn_mdconv_1x",
    "retinanet_r50_fpn_1x",
    "torchvision/faster_rcnn_r50_fpn_v2",
    "keypoint_rcnn_r50_fpn_1x",
)


@pytest.mark.parametrize("recipe", COMPUTED)
def test_parameters_and_operations_are_those_of_the_recipe(recipe):
    assert TOOL["row"](recipe, PUBLISHED[recipe]) in PAGE.splitlines(), (
        "run python tools/write_model_zoo.py"
    )


def test_every_recipe_has_a_line_with_what_was_published():
    for recipe, ap in PUBLISHED.items():
        line = next(row for row in PAGE.splitlines() if row.startswith(f"| [{recipe}]("))
        assert line.endswith(f" | {TOOL['published_text'](ap)} |")
    assert PAGE.startswith(TOOL["HEAD"])


def test_operations_are_counted_in_full():
    """Two operations for each weight of a convolution and position, known by hand."""
    config = TOOL["ModelConfig"].model_validate(
        {"backbone": {"depth": 18, "features": "c5"}, "box": None, "mask": None}
    )
    _, flops = TOOL["parameters_and_flops"](config)
    height, width = TOOL["coco_canvas"](config)
    assert (height, width) == (800, 1088)
    stem = 2 * 64 * 3 * 49 * (height // 2) * (width // 2)
    stages = 0
    for stage, channels in enumerate((64, 128, 256, 512), start=2):
        inside = channels if stage == 2 else channels // 2
        weights = 9 * channels * (inside + 3 * channels) + (channels * inside if stage > 2 else 0)
        stages += 2 * weights * (height >> stage) * (width >> stage)
    rpn = 2 * (9 * 512 * 512 + 15 * 5 * 512) * (height // 32) * (width // 32)
    assert flops == stem + stages + rpn


@pytest.mark.parametrize(
    ("recipe", "weights", "keys"),
    [
        ("torchvision/mask_rcnn_r50_fpn", "MaskRCNN_ResNet50_FPN_Weights", "box_map mask_map"),
        ("torchvision/faster_rcnn_r50_fpn_v2", "FasterRCNN_ResNet50_FPN_V2_Weights", "box_map"),
        (
            "torchvision/keypoint_rcnn_r50_fpn",
            "KeypointRCNN_ResNet50_FPN_Weights",
            "box_map kp_map",
        ),
    ],
)
def test_torchvisions_numbers_are_those_that_it_states(recipe, weights, keys):
    metrics = getattr(detection, weights).COCO_V1.meta["_metrics"]["COCO-val2017"]
    assert PUBLISHED[recipe]["torchvision"] == [metrics[key] for key in keys.split()]


def test_the_number_of_parameters_is_torchvisions():
    with torch.device("meta"):
        # The recipe is for 80 classes, as in the annotations; torchvision's weights have 90.
        model = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=81)
    own = {n: t.numel() for n, t in model.state_dict().items() if "running" not in n}
    assert f"| {sum(own.values()) / 1e6:.1f} M |" in next(
        row for row in PAGE.splitlines() if "[torchvision/mask_rcnn_r50_fpn]" in row
    )
