"""The ONNX file, read by onnxruntime, finds what the detector finds."""

import json
import sys

import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from model.export.__main__ import main
from model.export.comparison import compare
from model.preprocess import pad_batch
from model.structures import ImageSize
from model.weights import save_detector


@pytest.fixture(scope="module")
def folder(spread_detector, soft_blots, tmp_path_factory):
    """Weights, a picture, and what the command made of them: model.onnx for any size."""
    folder = tmp_path_factory.mktemp("export")
    save_detector(spread_detector, folder / "weights")
    Image.fromarray(soft_blots(120, 100).numpy()).save(folder / "picture.png")
    command = [str(folder / "weights"), "--to", str(folder / "model.onnx")]
    assert main([*command, "--check", str(folder / "picture.png")]) == 0
    return folder


def _run(model, picture):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {"pixels": picture.numpy()})
    return dict(zip(names, map(torch.from_numpy, values), strict=True))


def test_the_file_is_valid_and_uses_standard_operators_alone(folder):
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(used.domain, used.version) for used in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions


def test_the_file_tells_what_a_caller_needs(folder):
    model = onnx.load(folder / "model.onnx")
    words = json.loads(model.metadata_props[0].value)
    assert words["categories"][4] == {"id": 5, "name": "class_5"}
    assert (words["short_side"], words["long_side"], words["mask_threshold"]) == (96, 160, 0.5)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "pixels": ["height", "width", 3],
        "boxes": ["detections", 4],
        "scores": ["detections"],
        "labels": ["detections"],
        "masks": ["detections", 28, 28],
    }


@pytest.mark.parametrize("size", [(70, 130), (150, 97), (65, 65)], ids=str)
def test_onnxruntime_finds_what_the_detector_finds(folder, spread_detector, soft_blots, size):
    picture = soft_blots(*size, seed=1)
    with torch.inference_mode():
        (wanted,) = spread_detector(pad_batch([picture], [ImageSize(*size)]))
    found = _run(folder / "model.onnx", picture)
    agreement = compare(wanted, found)
    assert agreement.agreeing == agreement.wanted == agreement.found >= 5, agreement
    # scores here are further apart than the two differ, so the order is the same as well
    assert found["labels"].tolist() == wanted.labels.tolist()
    torch.testing.assert_close(found["scores"], wanted.scores, atol=1e-3, rtol=0)


def test_a_picture_without_objects_gives_empty_outputs(folder, soft_blots):
    model = onnx.load(folder / "model.onnx")
    (bias,) = (
        tensor for tensor in model.graph.initializer if tensor.name.endswith("class_logits.bias")
    )
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += 1e4  # all is background
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    found = _run(model.SerializeToString(), soft_blots(80, 80))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
        "masks": (0, 28, 28),
    }


def test_a_missing_package_is_named_with_what_to_install(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.delitem(sys.modules, "model.export.onnx_operators")
    assert main([str(folder / "weights"), "--to", str(folder / "other.onnx")]) == 1
    message = capsys.readouterr().err
    assert "onnxscript" in message
    assert "pip install onnx onnxruntime onnxscript" in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "model.onnx", "--height", "64"], "--height and --width together"),
        (
            ["--to", "model.onnx", "--height", "0", "--width", "9"],
            "whole number of pixels; got '0'",
        ),
        (["--to", "absent/model.onnx"], "absent is no folder"),
        (["--to", "model.tflite"], "must end with .onnx or .pt2; got 'model.tflite'"),
    ],
)
def test_a_wrong_command_line_is_refused_with_what_to_do(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["weights", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
