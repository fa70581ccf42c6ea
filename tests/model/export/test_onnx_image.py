"""The ONNX graph resizes images to the bits of the detector's own resizing."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from model import ModelConfig
from model.export.onnx_image import resizing_graph
from model.preprocess import resize_image, resized_size
from model.structures import ImageSize
from ops_cuda.preprocess import resize_bilinear_reference

SHORT, LONG = 80, 133
SIZES = [
    (60, 80),  # enlarged
    (80, 100),  # unchanged
    (427, 640),
    (640, 427),
    (500, 90),  # long side limited
    (1300, 300),
    (33, 900),
    (105, 1302),  # a tie of nearest
    (21, 7),
    (300, 150),  # the height shrinks by more than twice what the width does: rows first
]


def _graph(resize_filter, rounding):
    settings = {
        "input": {"short_side": SHORT, "long_side": LONG},
        "conventions": {"resize_filter": resize_filter, "resize_rounding": rounding},
    }
    graph = resizing_graph(ModelConfig.model_validate(settings))
    graph.ir_version = 10  # of the files that torch exports
    onnx.checker.check_model(graph, full_check=True)
    return graph.SerializeToString()


def _random_image(height, width):
    generator = np.random.default_rng(height)
    return generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _expected(image, resize_filter, rounding):
    pixels = torch.from_numpy(image)
    size = resized_size(ImageSize(*image.shape[:2]), SHORT, LONG, rounding)
    if resize_filter == "antialias":
        return resize_image(pixels, size).numpy()
    return resize_bilinear_reference(pixels, *size).numpy()


@pytest.mark.parametrize("rounding", ["nearest", "floor", "down"])
@pytest.mark.parametrize("resize_filter", ["antialias", "bilinear"])
def test_onnxruntime_resizes_to_the_same_levels(resize_filter, rounding):
    session = onnxruntime.InferenceSession(
        _graph(resize_filter, rounding), providers=["CPUExecutionProvider"]
    )
    for height, width in SIZES:
        image = _random_image(height, width)
        resized, ratio = session.run(None, {"pixels": image})
        expected = _expected(image, resize_filter, rounding)
        # Fractions of a level are rounded to float32; with antialiasing there are none.
        tolerance = 0 if resize_filter == "antialias" else 1e-4
        assert resized.shape == expected.shape
        np.testing.assert_allclose(resized, expected, atol=tolerance, rtol=0)
        np.testing.assert_allclose(
            ratio, [width / resized.shape[1], height / resized.shape[0]], rtol=1e-6
        )


def test_openvino_resizes_to_the_same_levels():
    openvino = pytest.importorskip("openvino", reason="pip install openvino")
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(_graph("antialias", "nearest"), b""),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )
    for height, width in SIZES:
        image = _random_image(height, width)
        resized = compiled({"pixels": image})["network_pixels"]
        np.testing.assert_array_equal(resized, _expected(image, "antialias", "nearest"))
