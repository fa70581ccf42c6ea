"""onnxruntime computes the detector's detections from the ONNX file."""

import json

import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from model.export import export_onnx
from model.export.__main__ import main
from model.export.comparison import compare_detections
from model.preprocess import pad_batch
from model.structures import ImageSize
from model.weights import save_detector
from tests.model.export.detector_kinds import KINDS


@pytest.fixture(scope="module")
def model_path(mask_detector, smooth_image, tmp_path_factory):
    """``model.onnx`` for images of any size, exported and checked by the command line."""
    folder = tmp_path_factory.mktemp("export")
    save_detector(mask_detector, folder / "weights")
    Image.fromarray(smooth_image(120, 100).numpy()).save(folder / "image.png")
    command = [str(folder / "weights"), "--to", str(folder / "model.onnx")]
    assert main([*command, "--check", str(folder / "image.png")]) == 0
    return folder / "model.onnx"


def _run(model, image):
    """Return the outputs of onnxruntime for a model file or its bytes."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {"pixels": image.numpy()})
    return dict(zip(names, map(torch.from_numpy, values), strict=True))


def test_the_file_is_valid_and_contains_only_standard_operators(model_path):
    model = onnx.load(model_path)
    onnx.checker.check_model(model, full_check=True)
    assert [(used.domain, used.version) for used in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions


def test_the_file_has_metadata_and_named_shapes(model_path):
    model = onnx.load(model_path)
    (entry,) = model.metadata_props
    assert entry.key == "maskrcnn_ray"
    metadata = json.loads(entry.value)
    assert metadata["categories"][4] == {"id": 5, "name": "class_5"}
    sides = (metadata["short_side"], metadata["long_side"])
    assert (*sides, metadata["mask_threshold"]) == (96, 160, 0.5)
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
def test_detections_match_for_images_of_any_size(model_path, mask_detector, smooth_image, size):
    image = smooth_image(*size, seed=1)
    with torch.inference_mode():
        (expected,) = mask_detector(pad_batch([image], [ImageSize(*size)]))
    results = _run(model_path, image)
    agreement = compare_detections(expected, results)
    assert agreement.matched == agreement.expected == agreement.exported >= 5, agreement
    # Scores are farther apart than the differences between the two, so the order is equal too.
    assert results["labels"].tolist() == expected.labels.tolist()
    torch.testing.assert_close(results["scores"], expected.scores, atol=1e-3, rtol=0)


def test_openvino_computes_the_same_detections(model_path, mask_detector, smooth_image):
    openvino = pytest.importorskip("openvino", reason="pip install openvino")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    run = openvino.Core().compile_model(model_path, "CPU", settings)
    image = smooth_image(150, 97, seed=1)
    with torch.inference_mode():
        (expected,) = mask_detector(pad_batch([image], [ImageSize(150, 97)]))
    results = run({"pixels": image.numpy()})
    names = ("boxes", "scores", "labels", "masks")
    agreement = compare_detections(
        expected, {name: torch.from_numpy(results[name].copy()) for name in names}
    )
    assert agreement.matched == agreement.expected == agreement.exported >= 5, agreement
    assert results["labels"].tolist() == expected.labels.tolist()


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["retinanet", "legacy_geometry"])
def test_detections_of_other_kinds_match_for_images_of_one_size(
    make_detector, smooth_image, tmp_path, kind
):
    detector, size = make_detector(**KINDS[kind]), ImageSize(150, 170)
    export_onnx(detector, tmp_path / "model.onnx", size)
    image = smooth_image(*size)
    with torch.inference_mode():
        (expected,) = detector(pad_batch([image], [size]))
    results = _run(tmp_path / "model.onnx", image)
    agreement = compare_detections(expected, results)
    assert agreement.matched == agreement.expected == agreement.exported >= 10, agreement
    assert ("keypoints" in results) == (expected.keypoints is not None)


def test_an_image_without_objects_gives_empty_outputs(model_path, smooth_image):
    model = onnx.load(model_path)
    (bias,) = (
        tensor for tensor in model.graph.initializer if tensor.name.endswith("class_logits.bias")
    )
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += 1e4  # everything is background
    bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
    results = _run(model.SerializeToString(), smooth_image(80, 80))
    assert {name: tuple(value.shape) for name, value in results.items()} == {
        "boxes": (0, 4),
        "scores": (0,),
        "labels": (0,),
        "masks": (0, 28, 28),
    }
