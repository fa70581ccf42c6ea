"""The traced program finds what the detector finds, without the detector's code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.export import ExportError, export_onnx, export_program
from model.export.__main__ import main
from model.export.comparison import compare, compare_on
from model.export.graph import InferenceGraph
from model.preprocess import pad_batch
from model.structures import ImageSize
from model.weights import save_detector
from ops_cuda import library

TORCHVISION = {
    "pixel_order": "bgr",
    "round_anchors": True,
    "anchor_stride": "grid",
    "roi_aligned": False,
    "roi_sampling_ratio": 0,
}

LOAD_AND_RUN = """
import sys
import torch
import ops_cuda

run = torch.export.load("program.pt2").module()
with torch.inference_mode():
    torch.save([run(picture) for picture in torch.load("pictures.pt")], "found.pt")
assert "model" not in sys.modules
"""

# One map has a fifth of the operators of a pyramid, and is traced and read in a fifth of the time.
ONE_MAP = {
    "backbone": {"depth": 18, "width": 16, "features": "c4"},
    "box": {"pool_side": 14, "detections_per_image": 40},
}


@pytest.fixture(scope="module")
def one_map_detector(build_spread):
    return build_spread(**ONE_MAP)


@pytest.mark.parametrize(
    "changes",
    [{}, {"conventions": TORCHVISION, "mask": None, "input": {"size_divisor": 1}}],
    ids=["mask_rcnn", "faster_rcnn_of_torchvision"],
)
def test_the_function_to_be_traced_is_the_detector_bit_for_bit(build_spread, soft_blots, changes):
    detector = build_spread(**changes)
    divisor = detector.config.input.size_divisor
    with torch.inference_mode():
        for height, width in ((70, 130), (96, 64)):
            picture = soft_blots(height, width)
            batch = pad_batch([picture], [ImageSize(height, width)], size_divisor=divisor)
            (wanted,) = detector(batch)
            found = InferenceGraph(detector).eval()(picture)
            assert len(wanted) >= 5
            for name, value in found.items():
                assert torch.equal(value, getattr(wanted, name))
            assert ("masks" in found) == (wanted.masks is not None)


def test_a_saved_program_needs_the_operators_alone(one_map_detector, soft_blots, tmp_path):
    pictures = [soft_blots(70, 130), soft_blots(150, 97, seed=1)]
    one_map_detector.train()
    torch.export.save(export_program(one_map_detector), tmp_path / "program.pt2")
    assert one_map_detector.training
    one_map_detector.eval()
    torch.save(pictures, tmp_path / "pictures.pt")
    environment = os.environ | {"PYTHONPATH": str(Path(library.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", LOAD_AND_RUN], cwd=tmp_path, check=True, env=environment)
    for picture, found in zip(pictures, torch.load(tmp_path / "found.pt"), strict=True):
        size = ImageSize(*picture.shape[:2])
        with torch.inference_mode():
            (wanted,) = one_map_detector(pad_batch([picture], [size]))
        agreement = compare(wanted, found)
        # other kernels of torch sum in another order: bits differ, nothing that counts
        assert agreement.agreeing == agreement.wanted == agreement.found >= 5, agreement
        assert found["labels"].tolist() == wanted.labels.tolist()


def test_a_program_of_one_size_is_written_checked_and_refuses_another(
    one_map_detector, soft_blots, tmp_path, capsys
):
    save_detector(one_map_detector, tmp_path / "weights")
    target = tmp_path / "program.pt2"
    size = ["--height", "80", "--width", "112"]
    assert main([str(tmp_path / "weights"), "--to", str(target), *size, "--check"]) == 0
    assert "detections agree" in capsys.readouterr().out
    words = {"maskrcnn_ray.json": ""}
    program = torch.export.load(target, extra_files=words).module()
    assert '"class_5"' in words["maskrcnn_ray.json"]
    agreement = compare_on(one_map_detector, program, [soft_blots(80, 112, seed=2)])
    assert agreement.share == 1.0
    with pytest.raises(Exception, match="Guard failed"):
        program(soft_blots(112, 80))


def test_without_compiled_operators_export_says_so(spread_detector, monkeypatch):
    monkeypatch.setattr(library, "KERNELS", {})
    with pytest.raises(ExportError, match="compiled operators"):
        export_program(spread_detector)
    with pytest.raises(ExportError, match="compiled operators"):
        export_onnx(spread_detector, "never_written.onnx")
