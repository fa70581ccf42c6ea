"""Settings of a model that contradict each other are rejected."""

import pytest

from model.config import ModelConfig
from model.config.settings import ConfigError, check_settings


@pytest.mark.parametrize(
    "change", [{"groups": 32}, {"deformable": "v1"}, {"features": "dc5"}], ids=str
)
def test_groups_deformable_convolutions_and_dilation_need_bottlenecks(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}.* depth of 50 or more; got 34"):
        ModelConfig.model_validate({"backbone": {"depth": 34} | change})


def test_c4_needs_a_pool_side_that_res5_can_halve():
    with pytest.raises(ValueError, match=r"pool_side must be even .* 14 as published"):
        ModelConfig.model_validate({"backbone": {"features": "c4"}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"short_sides": []}, "at least one size"),
        ({"short_sides": [64, 64]}, "every size only once"),
        ({"short_sides": [64, 0]}, "greater than 0"),
        ({"short_sides": [64, 100], "long_side": 80}, "long_side 80 is below the short side 100"),
    ],
)
def test_sizes_of_test_time_augmentation_are_positive_unique_and_within_the_limit(
    settings, message
):
    with pytest.raises(ConfigError, match=message):
        check_settings(ModelConfig, {"test_augmentation": settings})


def test_flips_need_a_right_keypoint_for_every_left_one():
    tree = {"keypoint": {"names": ["left_ear", "nose"]}, "test_augmentation": {"flip": True}}
    with pytest.raises(ConfigError, match="left_ear has no counterpart right_ear"):
        check_settings(ModelConfig, tree)
    tree["test_augmentation"]["flip"] = False
    assert check_settings(ModelConfig, tree).test_augmentation.short_sides[0] == 400
