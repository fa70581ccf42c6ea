"""An ONNX file that resizes images returns what `Predictor.predict` returns, without torch."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from model import Predictor
from model.export.__main__ import main
from model.export.comparison import compare_detections
from model.weights import save_detector

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "EXPORT.md").read_text()
SCRIPT, OPENVINO = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SIZES = [(70, 130), (240, 97), (96, 96), (300, 400), (20, 300)]


@pytest.fixture(scope="module")
def folder(one_map_detector, smooth_image, tmp_path_factory):
    """A folder with ``detector.onnx``, exported and checked by the command in docs/EXPORT.md."""
    folder = tmp_path_factory.mktemp("resizing")
    save_detector(one_map_detector, folder / "weights")
    Image.fromarray(smooth_image(150, 110, seed=3).numpy()).save(folder / "photo.png")
    [command] = re.findall(r"^python -m model.export (.*)$", PAGE, re.MULTILINE)
    command = command.replace("photo.jpg", "photo.png")
    subprocess.run(
        [sys.executable, "-m", "model.export", *command.split()],
        cwd=folder,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        check=True,
    )
    return folder


@pytest.fixture(scope="module")
def run_onnxruntime(folder):
    session = onnxruntime.InferenceSession(
        folder / "detector.onnx", providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda image: dict(zip(names, session.run(names, {"pixels": image}), strict=True))


@pytest.fixture(scope="module")
def run_openvino(folder):
    openvino = pytest.importorskip("openvino", reason="pip install openvino")
    compiled = openvino.Core().compile_model(
        folder / "detector.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )

    def run(image):
        results = compiled({"pixels": image})
        return {name: np.array(results[name]) for name in ("boxes", "scores", "labels", "masks")}

    return run


@pytest.fixture(params=["run_onnxruntime", "run_openvino"])
def run(request):
    return request.getfixturevalue(request.param)


def _agreement(detector, run, image):
    expected = Predictor(detector).predict(image)
    results = {name: torch.from_numpy(value) for name, value in run(image).items()}
    assert results["labels"].tolist() == expected.labels.tolist()
    return compare_detections(expected, results)


def test_detections_are_those_of_predict_in_pixels_of_the_image(
    run, one_map_detector, smooth_image
):
    for size in SIZES:
        agreement = _agreement(one_map_detector, run, smooth_image(*size, seed=1).numpy())
        assert agreement.matched == agreement.expected == agreement.exported >= 5, agreement
        assert agreement.box < 0.01


def test_detections_in_real_images_are_those_of_predict(run, one_map_detector, coco_tiny):
    for path in sorted((coco_tiny / "val2017").iterdir())[:5]:
        image = np.array(Image.open(path).convert("RGB"))
        agreement = _agreement(one_map_detector, run, image)
        assert agreement.matched == agreement.expected == agreement.exported >= 5, agreement
        assert agreement.box < 0.01


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_script_of_the_page_runs_without_torch_and_pastes_the_same_masks(
    runtime, folder, one_map_detector
):
    pytest.importorskip(runtime, reason=f"pip install {runtime}")
    script = SCRIPT.replace("photo.jpg", "photo.png")
    if runtime == "openvino":
        run_line = next(line for line in script.splitlines() if "session.run" in line)
        script = script.replace(run_line, OPENVINO)
    check = "\nimport sys\nassert 'torch' not in sys.modules"
    lines = subprocess.run(
        [sys.executable, "-c", script + check], cwd=folder, check=True, capture_output=True
    ).stdout.decode()
    expected = Predictor(one_map_detector).predict(folder / "photo.png")
    names = [category.name for category in one_map_detector.categories]
    pixels = expected.bitmaps().sum((1, 2)).tolist()
    assert max(pixels) > 100
    assert lines.splitlines() == [
        f"{names[label - 1]} {score:.3f} at {' '.join(f'{x:.1f}' for x in box)}: {count} pixels"
        for box, score, label, count in zip(
            expected.boxes.tolist(),
            expected.scores.tolist(),
            expected.labels.tolist(),
            pixels,
            strict=True,
        )
    ]


@pytest.mark.parametrize(
    "options",
    [["--to", "model.pt2"], ["--to", "model.onnx", "--height", "64", "--width", "64"]],
    ids=["program", "one_size"],
)
def test_only_an_onnx_file_for_any_size_resizes(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["weights", "--resize", *options])
    assert stopped.value.code == 2
    assert "--resize is for .onnx files" in capsys.readouterr().err
