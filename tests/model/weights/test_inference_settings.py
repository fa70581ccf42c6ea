import pytest

from model import build_detector, save_detector
from model.config import ModelConfig
from model.config.settings import ConfigError
from model.weights import load_network
from model.weights.inference_settings import override_inference_settings


@pytest.fixture
def folder(tiny_config, tmp_path):
    save_detector(build_detector(tiny_config()), tmp_path)
    return tmp_path


def test_inference_settings_are_overridden_by_name(folder):
    config = load_network(
        folder,
        short_side=48,
        long_side=72,
        score_threshold=0.3,
        nms_iou=0.4,
        detections_per_image=7,
        mask_threshold=0.6,
    ).config
    assert (config.input.short_side, config.input.long_side) == (48, 72)
    assert (config.box.score_threshold, config.box.nms_iou) == (0.3, 0.4)
    assert config.box.detections_per_image == 7
    assert config.mask.threshold == 0.6


def test_a_misspelled_override_is_refused_with_the_nearest_name(folder):
    with pytest.raises(TypeError, match=r"'score_treshold'; did you mean score_threshold\?"):
        load_network(folder, score_treshold=0.3)
    with pytest.raises(ConfigError, match="score_threshold"):
        load_network(folder, score_threshold=30)


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [
        ("proposals", "rpn.post_nms_test", -2),
        ("short_side", "input.short_side", 0),
        ("score_threshold", "box.score_threshold", 1.5),
        ("mask_threshold", "mask.threshold", "high"),
    ],
)
def test_an_override_out_of_range_is_named_as_the_caller_spelled_it(argument, key, value):
    with pytest.raises(ConfigError) as refused:
        override_inference_settings(ModelConfig(), {argument: value})
    [problem] = refused.value.problems
    assert problem.startswith(f"{argument} ({key}): must be ")
    assert str(value) in problem
