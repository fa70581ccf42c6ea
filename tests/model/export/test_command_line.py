"""``python -m model.export`` writes and checks a file, or says what is wrong."""

import json
import sys

import pytest
import torch

from model.export.__main__ import main
from model.export.comparison import compare_on_images
from model.weights import save_detector


def test_a_program_of_one_size_is_written_checked_and_rejects_other_sizes(
    one_map_detector, smooth_image, tmp_path, capsys
):
    save_detector(one_map_detector, tmp_path / "weights")
    target = tmp_path / "program.pt2"
    size = ["--height", "80", "--width", "112"]
    assert main([str(tmp_path / "weights"), "--to", str(target), *size, "--check"]) == 0
    assert "detections match" in capsys.readouterr().out
    files = {"maskrcnn_ray.json": ""}
    program = torch.export.load(target, extra_files=files).module()
    assert json.loads(files["maskrcnn_ray.json"])["categories"][4]["name"] == "class_5"
    agreement = compare_on_images(one_map_detector, program, [smooth_image(80, 112, seed=2)])
    assert agreement.matched_share == 1.0
    with pytest.raises(Exception, match="Guard failed"):
        program(smooth_image(112, 80))


def test_an_error_names_a_missing_package_and_how_to_install_it(
    mask_detector, tmp_path, monkeypatch, capsys
):
    save_detector(mask_detector, tmp_path / "weights")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.delitem(sys.modules, "model.export.onnx_operators", raising=False)
    assert main([str(tmp_path / "weights"), "--to", str(tmp_path / "model.onnx")]) == 2
    [message] = capsys.readouterr().err.splitlines()
    assert "onnxscript" in message
    assert "pip install 'maskrcnn-ray[export]'" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "model.onnx", "--height", "64"], "--height and --width together"),
        (
            ["--to", "model.onnx", "--height", "0", "--width", "9"],
            "whole number of pixels; got '0'",
        ),
        (["--to", "absent/model.onnx"], "absent is not a folder"),
        (["--to", "model.tflite"], "must end with .onnx or .pt2; got 'model.tflite'"),
    ],
)
def test_an_invalid_command_line_is_rejected_with_what_to_do(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["weights", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
