"""`imagenet` for a timm backbone: the file that timm publishes, from a mirror or its page."""

import pytest
import timm
from safetensors.torch import save_file

from model import ModelConfig, build_detector
from model.weights import WeightsError, load_weights
from model.weights.published.fetch import MIRRORS_VARIABLE
from model.weights.published.selection import find_published

CONVNEXT = ModelConfig.model_validate(
    {"backbone": {"timm": "test_convnext"}, "fpn": {"channels": 16}}
)


def test_the_file_of_a_mirror_fills_the_backbone(tmp_path, monkeypatch):
    tensors = timm.create_model("test_convnext").state_dict()
    save_file(tensors, tmp_path / "test_convnext.r160_in1k.safetensors")
    monkeypatch.setenv(MIRRORS_VARIABLE, str(tmp_path))
    detector = build_detector(CONVNEXT)
    report = load_weights(detector, "imagenet")
    assert len(report.loaded) == len(detector.backbone.net.state_dict())


def test_the_error_says_where_the_file_is_and_under_which_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("MASKRCNN_RAY_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        load_weights(build_detector(CONVNEXT), "imagenet")
    text = str(caught.value)
    assert "http://127.0.0.1:9/timm/test_convnext.r160_in1k/resolve/main/model.safetensors" in text
    assert f"put it into {tmp_path} as test_convnext.r160_in1k.safetensors" in text
    assert "apache-2.0" in text


@pytest.mark.parametrize(
    ("word", "backbone", "message"),
    [
        ("imagenet", {"timm": "resnet18.nobody"}, r"it has some of resnet18\..*Name a file"),
        ("imagenet", {"function": "nets:make"}, "no imagenet weights are published for nets:make"),
        ("coco", {"timm": "test_convnext"}, "no coco weights are published for test_convnext"),
    ],
)
def test_what_nobody_publishes_is_said(word, backbone, message):
    with pytest.raises(WeightsError, match=message):
        find_published(word, ModelConfig.model_validate({"backbone": backbone}))
