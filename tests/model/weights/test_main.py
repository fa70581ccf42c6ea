import pytest
import torch
import torchvision

from model import Category, build_detector, save_detector
from model.config import DETECTRON
from model.weights import load_network
from model.weights.__main__ import main


@pytest.fixture
def torchvision_file(tmp_path):
    """Weights of torchvision's Mask R-CNN with 2 classes, and a tensor of no known name."""
    model = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3
    )
    torch.save(model.state_dict() | {"secret": torch.ones(2)}, tmp_path / "maskrcnn.pth")
    return tmp_path / "maskrcnn.pth"


def test_convert_writes_the_detector_that_the_weights_load_as(torchvision_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["convert", str(torchvision_file), "--to", str(out)]) == 1
    assert "secret is not used" in capsys.readouterr().err
    assert not out.exists()
    command = ["convert", str(torchvision_file), "--to", str(out), "--allow-unused", "sec*"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "roi_heads.box_head.fc6.weight" in printed
    assert "(1024, 12544)" in printed
    direct, converted = load_network(torchvision_file, allow_unused=["secret"]), load_network(out)
    assert converted.config == direct.config
    for name, tensor in direct.state_dict().items():
        assert tensor.equal(converted.state_dict()[name])


def test_inspect_prints_the_status_of_every_tensor(tmp_path, capsys):
    classifier = torchvision.models.resnet18()
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    assert main(["inspect", str(tmp_path / "resnet18.pth")]) == 0
    lines = capsys.readouterr().out.splitlines()
    by_last_word = {line.split()[-1]: line for line in lines if line}
    assert by_last_word["conv1.weight"].split()[:2] == ["loaded", "backbone.conv1.weight"]
    assert any(line.startswith("ignored") and "fc.weight" in line for line in lines)
    assert any(line.startswith("missing") and "rpn.head.convs.0.weight" in line for line in lines)
    assert "renamed: " in lines[-1]


def test_missing_layers_are_an_error_unless_allowed(tmp_path, capsys):
    classifier = torchvision.models.resnet18()
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    command = ["convert", str(tmp_path / "resnet18.pth"), "--to", str(tmp_path / "out")]
    assert main(command) == 1
    assert "fpn.lateral.0.weight is missing" in capsys.readouterr().err
    for part in ("fpn", "rpn", "roi_heads"):
        command += ["--allow-missing", f"{part}.*"]
    assert main(command) == 0
    detector = load_network(tmp_path / "out")
    assert detector.config.backbone.depth == 18
    assert detector.backbone.conv1.weight.equal(classifier.conv1.weight)


def test_unreadable_weights_and_wrong_configs_are_reported_without_a_traceback(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "absent.pkl")]) == 1
    assert capsys.readouterr().err.startswith("no weights at")
    (tmp_path / "bad.yaml").write_text("model: {backbone: {dept: 50}}")
    (tmp_path / "x.pth").write_text("x")
    command = ["inspect", str(tmp_path / "x.pth"), "--config", str(tmp_path / "bad.yaml")]
    assert main(command) == 2
    assert "backbone.depth" in capsys.readouterr().err


def test_our_own_folder_keeps_its_classes_and_conventions(tiny_config, tmp_path, caplog):
    categories = (Category(3, "cat"), Category(9, "dog"), Category(70, "owl"))
    config = tiny_config(conventions=DETECTRON)
    save_detector(build_detector(config, categories), tmp_path / "one")
    assert main(["convert", str(tmp_path / "one"), "--to", str(tmp_path / "two")]) == 0
    assert load_network(tmp_path / "two").categories == categories
    assert load_network(tmp_path / "two").config.conventions == config.conventions
    assert not caplog.text  # no warning: the detector follows all conventions of the weights


def test_a_stated_convention_is_converted_with_the_weights(tiny_config, tmp_path, capsys):
    save_detector(build_detector(tiny_config()), tmp_path / "one")
    out = tmp_path / "two"
    command = ["convert", str(tmp_path / "one"), "--to", str(out)]
    for stated in ("roi_aligned=false", "rpn.anchor_sizes=[4, 8, 16, 32, 64]"):
        command += ["--convention", stated]
    assert main(command) == 0
    config = load_network(out).config
    assert not config.conventions.roi_aligned
    assert config.rpn.anchor_sizes == (4, 8, 16, 32, 64)
    for option, message in (
        ("roi_alined=false", "did you mean roi_aligned"),
        ("roi_aligned", "write NAME=VALUE"),
    ):
        assert main([*command, "--convention", option]) == 2
        assert message in capsys.readouterr().err


def test_a_conflict_with_the_config_is_printed_once(tiny_config, tmp_path, capsys):
    save_detector(build_detector(tiny_config()), tmp_path / "one")
    (tmp_path / "recipe.yaml").write_text("model: {conventions: {roi_aligned: false}}")
    command = ["inspect", str(tmp_path / "one"), "--config", str(tmp_path / "recipe.yaml")]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "model.conventions.roi_aligned = true (the config: false)" in printed.out
    assert not printed.err
