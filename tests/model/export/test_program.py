"""The exported program computes the detector's detections without the detector's code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.export import ExportError, export_onnx, export_program
from model.export.comparison import compare_detections, compare_on_images
from model.preprocess import pad_batch
from model.structures import ImageSize
from ops_cuda import library
from tests.model.export.detector_kinds import KINDS

LOAD_AND_RUN = """
import sys
import torch
import ops_cuda

run = torch.export.load("program.pt2").module()
with torch.inference_mode():
    torch.save([run(image) for image in torch.load("images.pt")], "results.pt")
assert "model" not in sys.modules
"""


def test_a_saved_program_needs_only_the_operators(one_map_detector, smooth_image, tmp_path):
    images = [smooth_image(70, 130), smooth_image(150, 97, seed=1)]
    one_map_detector.train()
    torch.export.save(export_program(one_map_detector), tmp_path / "program.pt2")
    assert one_map_detector.training
    one_map_detector.eval()
    torch.save(images, tmp_path / "images.pt")
    environment = os.environ | {"PYTHONPATH": str(Path(library.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", LOAD_AND_RUN], cwd=tmp_path, check=True, env=environment)
    for image, results in zip(images, torch.load(tmp_path / "results.pt"), strict=True):
        size = ImageSize(*image.shape[:2])
        with torch.inference_mode():
            (expected,) = one_map_detector(pad_batch([image], [size]))
        agreement = compare_detections(expected, results)
        # The program runs other kernels, which sum in another order: the last bits may differ.
        assert agreement.matched == agreement.expected == agreement.exported >= 5, agreement
        assert results["labels"].tolist() == expected.labels.tolist()


@pytest.mark.parametrize(
    "kind",
    [
        "retinanet",
        pytest.param("dc5_resnext_deformable", marks=pytest.mark.soak),
        pytest.param("norms_and_convolutions", marks=pytest.mark.soak),
    ],
)
def test_a_program_for_any_size_matches_its_detector(make_detector, smooth_image, kind):
    detector = make_detector(**KINDS[kind])
    program = export_program(detector).module()
    sizes = (140, 170), (200, 129)
    agreement = compare_on_images(detector, program, [smooth_image(*size) for size in sizes])
    assert agreement.matched == agreement.expected == agreement.exported >= 10, agreement


def test_export_without_compiled_operators_raises(mask_detector, monkeypatch):
    monkeypatch.setattr(library, "KERNELS", {})
    with pytest.raises(ExportError, match="compiled operators"):
        export_program(mask_detector)
    with pytest.raises(ExportError, match="compiled operators"):
        export_onnx(mask_detector, "never_written.onnx")
