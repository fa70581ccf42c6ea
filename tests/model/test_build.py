"""build_detector selects the class and the categories from the settings."""

import pytest
import torch

from model import Category, build_detector
from tests.model.detector_kinds import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_decide_the_class(tiny_config, kind):
    config = tiny_config(**KINDS[kind].settings)
    detector = build_detector(config)
    assert type(detector) is KINDS[kind].detector_class
    assert detector.config is config


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_in_channels_last_layout(tiny_config, kind):
    detector = build_detector(tiny_config(**KINDS[kind].settings))
    weight = detector.backbone.layer1[0].conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_categories_must_match_the_number_of_classes(tiny_config):
    assert build_detector(tiny_config()).categories[2] == Category(3, "class_3")
    named = [Category(7, "cat"), Category(9, "dog"), Category(1, "cow")]
    assert build_detector(tiny_config(), named).categories == tuple(named)
    with pytest.raises(ValueError, match="num_classes is 3 but 1 categories"):
        build_detector(tiny_config(), [Category(7, "cat")])
