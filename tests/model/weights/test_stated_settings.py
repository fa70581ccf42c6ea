from model import ModelConfig
from model.config.settings import check_settings
from model.weights.stated_settings import (
    EVERY_SECTION,
    free_settings,
    replace_settings,
    setting_of,
    stated_settings,
    take_free_settings,
)


def config(**tree):
    return check_settings(ModelConfig, tree)


def test_settings_are_stated_even_at_their_defaults():
    stated = stated_settings(
        config(
            num_classes=80,
            conventions={"roi_aligned": True},
            box={"nms_iou": 0.5},
            mask=None,
            test_augmentation=None,
        )
    )
    assert stated == {
        "num_classes": 80,
        "conventions.roi_aligned": True,
        "box.nms_iou": 0.5,
        "test_augmentation": None,
    }
    assert stated_settings(ModelConfig()) == {}


def test_replaced_settings_count_as_stated():
    replaced = replace_settings(ModelConfig(), {"num_classes": 3, "rpn.nms_iou": 0.6})
    assert stated_settings(replaced) == {"num_classes": 3, "rpn.nms_iou": 0.6}
    assert setting_of(replaced, "rpn.nms_iou") == 0.6
    assert setting_of(replaced, "keypoint.layers") is None


GIVEN = config(
    num_classes=5,
    conventions={"roi_aligned": False, "pixel_order": "bgr"},
    input={"short_side": 600, "size_divisor": 1},
    backbone={"depth": 101, "frozen_stages": 0},
    rpn={"anchor_sizes": [8, 16, 32, 64, 128], "post_nms_test": 7, "positive_iou": 0.6},
    box={"delta_weights": [1, 1, 1, 1], "score_threshold": 0.3},
    mask={"layers": 2, "threshold": 0.4},
    keypoint={"names": ["nose"], "channels": 64},
    test_augmentation={"flip": False},
)
FREE = {
    "input.short_side": 600,
    "backbone.frozen_stages": 0,
    "rpn.post_nms_test": 7,
    "rpn.positive_iou": 0.6,
    "box.score_threshold": 0.3,
    "mask.threshold": 0.4,
    "test_augmentation": GIVEN.test_augmentation,
}


def test_conventions_and_architecture_are_not_free():
    free = free_settings(GIVEN)
    assert stated_settings(free) == FREE | {"keypoint.names": ("nose",)}
    assert free_settings(ModelConfig()) == EVERY_SECTION


def test_settings_of_heads_that_a_detector_lacks_are_not_taken():
    base = config(mask=None, keypoint={"names": ["left_eye", "right_eye"]})
    taken = take_free_settings(base, GIVEN)
    assert taken.mask is None
    # Names are saved with our weights, and are not of the config.
    assert taken.keypoint == base.keypoint
    assert (taken.input.short_side, taken.input.size_divisor) == (600, 32)
    assert taken.test_augmentation == GIVEN.test_augmentation
    no_augmentation = config(test_augmentation=None)
    assert take_free_settings(taken, no_augmentation).test_augmentation is None
    assert take_free_settings(taken, ModelConfig()) == taken
