import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ops_cuda
from ops_cuda import library, reference
from tests.ops_cuda.examples import examples
from tests.ops_cuda.scenes import (
    SCALES,
    judged_anchors,
    pictures,
    pyramid,
    random_boxes,
    random_labels,
    random_outlines,
    random_rois,
    random_runs,
    tied_scores,
)

ROOT = Path(__file__).resolve().parents[2]


def test_the_compiled_library_serves_this_machine():
    assert all("cpu" in devices for devices in library.KERNELS.values()), ops_cuda.backend()
    assert ops_cuda.backend().startswith("compiled for cpu")
    assert "\n" not in ops_cuda.backend()


@pytest.mark.skipif(os.environ.get("OPS_SANITIZE") != "1", reason="only in make sanitize")
def test_the_sanitized_library_is_the_one_under_test():
    origin = importlib.util.find_spec("_ops_cuda").origin
    assert b"__asan_init" in Path(origin).read_bytes()


def test_every_operator_has_an_example():
    assert set(examples()) == set(library.OPERATORS)


@pytest.mark.parametrize("name", library.OPERATORS)
def test_torch_accepts_the_registration(name):
    operator = getattr(torch.ops.ops_cuda, name)
    torch.library.opcheck(operator, examples()[name])


def pool(maps, rois):
    return ops_cuda.multiscale_roi_align(maps, rois, SCALES, 4) * 2


def select(boxes, scores, classes):
    kept = ops_cuda.batched_nms(boxes, scores, classes, 0.5, 20)
    return boxes[kept] + 1, ops_cuda.nms(boxes[kept], scores[kept], 0.3)


def draw(outlines, wanted, boxes, masks):
    targets = ops_cuda.rasterize_polygons(*outlines, wanted, boxes, 14)
    return targets.mean(0), ops_cuda.paste_masks(masks, boxes, 60, 80, 0.5).sum(0)


def encode(masks, boxes):
    counts, offsets = ops_cuda.encode_roi_masks_rle(masks, boxes, 60, 80, 0.5)
    return offsets + 1, ops_cuda.compress_rle(counts, offsets)


def propose(judged, boxes, scores, classes):
    found = ops_cuda.select_proposals(*judged, 50, 30, 0.7, 1e-3, 4.0)
    return *found, ops_cuda.surviving_boxes(boxes, scores, classes, 0.5).sum()


def match(candidates, truths, offsets):
    truth, verdict = ops_cuda.match_boxes(candidates, truths, offsets, 0.5, 0.3, True)
    return truth + 1, verdict.sum(1)


def cut(runs, wanted, boxes):
    return ops_cuda.rasterize_rle(*runs, wanted, boxes, 14).mean(0)


def prepare(images):
    first = ops_cuda.resize_image(images[0], 20, 50)
    sizes, rule = [(20, 50), (20, 64), (9, 9)], ((120, 110, 100), (50, 60, 57))
    return ops_cuda.preprocess([first, *images[1:]], sizes, (48, 64), *rule).relu()


def convolve(x, weight, bias):
    packed = ops_cuda.pack_conv3x3(weight)
    return ops_cuda.conv3x3_relu(x, packed, bias, len(weight)).mean(0)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (pool, (pyramid(channels=3, side=64), random_rois(5, side=64))),
        (select, (random_boxes(50), tied_scores(50), random_labels(50))),
        (cut, (random_runs(5), torch.arange(9) % 5, random_boxes(9))),
        (
            draw,
            (random_outlines(5), torch.arange(9) % 5, random_boxes(9), torch.rand(9, 14, 14)),
        ),
        (encode, (torch.rand(9, 14, 14), random_boxes(9))),
        (propose, (judged_anchors(), random_boxes(50), tied_scores(50), random_labels(50))),
        (match, (random_boxes(50)[None], random_boxes(9, seed=1), torch.tensor([0, 4, 9]))),
        (prepare, (pictures(),)),
        (convolve, (torch.rand(2, 3, 9, 5), torch.rand(40, 3, 3, 3), torch.rand(40))),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_functions_of_the_operators_compile_to_one_graph(function, arguments):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        found = compiled(*arguments)
    torch.testing.assert_close(found, function(*arguments), rtol=0, atol=0)


def test_the_gradient_compiles_too():
    maps, rois = pyramid(channels=3, side=64), random_rois(5, side=64)
    grads = []
    for function in (pool, torch.compile(pool, fullgraph=True, backend="aot_eager")):
        leaves = [each.clone().requires_grad_() for each in maps]
        function(leaves, rois).square().sum().backward()
        grads.append([each.grad for each in leaves])
    assert all(a.equal(b) for a, b in zip(*grads, strict=True))


def test_without_kernels_for_a_device_the_twins_answer(monkeypatch):
    monkeypatch.setattr(library, "KERNELS", {})
    monkeypatch.setattr(reference, "nms", lambda *arguments: "the twin")
    assert ops_cuda.nms(random_boxes(3), tied_scores(3), 0.5) == "the twin"
    maps, rois = pyramid(), random_rois(9)
    expected = torch.ops.ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7, 2, True, 224.0, 4)
    pooled = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-6)


def backend_of_a_fresh_process(**environment):
    program = "import ops_cuda; print(ops_cuda.backend())"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return finished.stdout.strip()


def test_the_library_loads_where_no_gpu_is():
    assert backend_of_a_fresh_process(CUDA_VISIBLE_DEVICES="") == ops_cuda.backend()


def damaged(library_name, folder):
    """A file that is no library in place of the one of this name; the PYTHONPATH that finds it."""
    file = folder / f"{library_name}.abi3.so"
    file.write_bytes(b"no library")
    return file, os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def test_a_library_that_does_not_load_is_named_and_replaced(tmp_path):
    file, path = damaged("_ops_cuda", tmp_path)
    backend = backend_of_a_fresh_process(PYTHONPATH=path, PYTHONSAFEPATH="1")
    assert backend.startswith(f"reference ({file} does not load")
    assert "\n" not in backend


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")
def test_without_cuda_kernels_those_of_the_cpu_remain(tmp_path):
    file, path = damaged("_ops_cuda_gpu", tmp_path)
    backend = backend_of_a_fresh_process(PYTHONPATH=path, PYTHONSAFEPATH="1")
    assert backend.startswith(f"compiled for cpu ({file} does not load")
    assert "\n" not in backend
