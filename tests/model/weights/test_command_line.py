import pytest
import torch
import torchvision

from model import Category, build_detector, load_detector, save_detector
from model.config import DETECTRON
from model.weights import load_weights
from model.weights.__main__ import main


@pytest.fixture
def theirs(tmp_path):
    """torchvision's Mask R-CNN of 2 classes, with a tensor that nobody knows."""
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3
    )
    torch.save(model.state_dict() | {"secret": torch.ones(2)}, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


def test_converted_weights_are_the_same_detector(theirs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(theirs), "--to", str(out)]) == 1
    assert "secret is not used" in capsys.readouterr().err
    assert not out.exists()
    command = ["convert", str(theirs), "--to", str(out), "--allow-unused", "sec*"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "roi_heads.box_head.fc6.weight" in said
    assert "(1024, 12544)" in said
    direct, converted = load_detector(theirs, allow_unused=["secret"]), load_detector(out)
    assert converted.config == direct.config
    for name, tensor in direct.state_dict().items():
        assert tensor.equal(converted.state_dict()[name])


def test_inspect_prints_every_tensor_s_fate(tmp_path, capsys):
    classifier = torchvision.models.resnet18()
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    assert main(["inspect", str(tmp_path / "resnet18.pth")]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = {line.split()[-1]: line for line in lines}
    assert words["conv1.weight"].split()[:2] == ["loaded", "backbone.conv1.weight"]
    assert any(line.startswith("not needed") and "fc.weight" in line for line in lines)
    assert any(
        line.startswith("left at initialisation") and "rpn.head.convs.0.weight" in line
        for line in lines
    )
    assert "renamed: " in lines[-1]


def test_missing_layers_are_an_error_unless_allowed(tmp_path, capsys):
    classifier = torchvision.models.resnet18()
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    command = ["convert", str(tmp_path / "resnet18.pth"), "--to", str(tmp_path / "out")]
    assert main(command) == 1
    assert "fpn.lateral.0.weight is not filled" in capsys.readouterr().err
    for part in ("fpn", "rpn", "roi_heads"):
        command += ["--allow-missing", f"{part}.*"]
    assert main(command) == 0
    detector = load_detector(tmp_path / "out")
    assert detector.config.backbone.depth == 18
    assert detector.backbone.conv1.weight.equal(classifier.conv1.weight)


def test_what_cannot_be_read_is_said_in_a_line(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "absent.pkl")]) == 1
    assert capsys.readouterr().err.startswith("no weights at")
    (tmp_path / "bad.yaml").write_text("model: {backbone: {dept: 50}}")
    (tmp_path / "x.pth").write_text("x")
    command = ["inspect", str(tmp_path / "x.pth"), "--config", str(tmp_path / "bad.yaml")]
    assert main(command) == 2
    assert "backbone.depth" in capsys.readouterr().err


def test_our_own_folder_keeps_its_classes_and_its_legacy(tiny_config, tmp_path, caplog):
    categories = (Category(3, "cat"), Category(9, "dog"), Category(70, "owl"))
    config = tiny_config(conventions=DETECTRON)
    save_detector(build_detector(config, categories), tmp_path / "one")
    assert main(["convert", str(tmp_path / "one"), "--to", str(tmp_path / "two")]) == 0
    assert load_detector(tmp_path / "two").categories == categories
    assert load_detector(tmp_path / "two").config.conventions == config.conventions
    assert not caplog.text  # no warning: what the weights take for granted is what is done


def test_timm_s_file_is_a_plain_resnet(tiny_config, tmp_path):
    from safetensors.torch import save_file

    # timm writes model.safetensors, as we do, but no model.json beside it.
    state = torchvision.models.resnet18().state_dict()
    save_file(state, tmp_path / "model.safetensors")
    backbone = {"depth": 18, "norm": "frozen_bn"}
    detector = build_detector(tiny_config(backbone=backbone))
    report = load_weights(detector, tmp_path / "model.safetensors")
    assert report.ecosystem == "torchvision or timm"
    assert set(report.loaded) == {f"backbone.{n}" for n in detector.backbone.state_dict()}
