import re

import pytest

from model.config.settings import ConfigError
from model.weights.conventions_argument import parse_conventions


def test_conventions_are_named_with_or_without_their_section():
    parsed = parse_conventions(
        {
            "roi_aligned": False,
            "conventions.pixel_order": "bgr",
            "pixel_std": [1, 1, 1],
            "retinanet.delta_weights": (10, 10, 5, 5),
            "rpn.anchor_sizes": [16, 32, 64, 128, 256],
            "input.size_divisor": 1,
            "backbone.features": "dc5",
        }
    )
    assert parsed == {
        "conventions.roi_aligned": False,
        "conventions.pixel_order": "bgr",
        "conventions.pixel_std": (1.0, 1.0, 1.0),
        "retinanet.delta_weights": (10.0, 10.0, 5.0, 5.0),
        "rpn.anchor_sizes": (16.0, 32.0, 64.0, 128.0, 256.0),
        "input.size_divisor": 1,
        "backbone.features": "dc5",
    }
    assert parse_conventions({}) == {}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("roi_alinged", False, "roi_alinged is unknown; did you mean roi_aligned?"),
        ("conventions.pixel_ordr", "rgb", "did you mean pixel_order?"),
        ("retinanet.delta_weight", 1, "did you mean retinanet.delta_weights?"),
        ("anchor_size", 1, "did you mean"),
        ("zzz", 1, "zzz is unknown; known: pixel_order, "),
        ("box.hidden", 64, "box.hidden cannot be stated: the tensors determine it"),
        ("box.score_threshold", 0.5, "box.score_threshold is no convention of weights"),
        ("roi_aligned", "no", "roi_aligned: must be a valid boolean; got 'no'"),
        ("roi_sampling_ratio", -1, "roi_sampling_ratio: must be greater than or equal to 0"),
        ("rpn.anchor_ratios", [], "need at least one value each"),
    ],
)
def test_unknown_names_and_invalid_values_are_refused(name, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_conventions({name: value})


def test_all_problems_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_conventions({"roi_alinged": True, "norm_epsilon": -1.0, "mask_paste": "grid"})
    assert len(caught.value.problems) == 2
