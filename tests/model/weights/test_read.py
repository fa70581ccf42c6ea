import torchvision
from safetensors.torch import save_file

from model import build_detector
from model.weights import load_weights


def test_a_timm_safetensors_file_without_model_json_is_a_plain_resnet(tiny_config, tmp_path):
    # timm names its file model.safetensors, as we do.
    state = torchvision.models.resnet18().state_dict()
    save_file(state, tmp_path / "model.safetensors")
    backbone = {"depth": 18, "norm": "frozen_bn"}
    detector = build_detector(tiny_config(backbone=backbone))
    report = load_weights(detector, tmp_path / "model.safetensors")
    assert report.ecosystem == "torchvision or timm"
    assert set(report.loaded) == {f"backbone.{n}" for n in detector.backbone.state_dict()}
