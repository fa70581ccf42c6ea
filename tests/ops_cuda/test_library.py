import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ops_cuda
from ops_cuda import library
from tests.ops_cuda.examples import copy_tensors, examples, run_example, with_result
from tests.ops_cuda.scenes import (
    SCALES,
    pyramid,
    random_boxes,
    random_images,
    random_labels,
    random_outlines,
    random_rois,
    random_runs,
    scored_anchors,
    tied_scores,
)

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = sorted(library.KERNELS)


def test_the_compiled_library_has_cpu_kernels_for_every_operator():
    assert OPERATORS
    assert all("cpu" in devices for devices in library.KERNELS.values()), ops_cuda.backend()
    assert ops_cuda.backend().startswith("compiled for cpu")
    assert "\n" not in ops_cuda.backend()


def test_every_operator_of_the_schema_has_a_fake_kernel():
    names = torch._C._dispatch_get_all_op_names()
    in_schema = {name.removeprefix("ops_cuda::") for name in names if name.startswith("ops_cuda::")}
    assert in_schema == set(OPERATORS)


@pytest.mark.skipif(os.environ.get("OPS_SANITIZE") != "1", reason="only in make sanitize")
def test_the_sanitized_library_is_the_one_under_test():
    origin = importlib.util.find_spec("_ops_cuda").origin
    assert b"__asan_init" in Path(origin).read_bytes()


def test_every_operator_has_an_example():
    assert set(examples()) == set(OPERATORS)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_passes_opcheck(name):
    operator = getattr(torch.ops.ops_cuda, name)
    torch.library.opcheck(operator, examples()[name])


def run_compiled(function, arguments):
    torch._dynamo.reset()  # the limit of recompilations counts across tests
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        return compiled(*arguments)


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_compiles_to_one_graph(name):
    operator, arguments = getattr(torch.ops.ops_cuda, name), examples()[name]
    actual = run_compiled(with_result(operator), copy_tensors(arguments))
    torch.testing.assert_close(actual, run_example(operator, arguments), rtol=0, atol=0)


def pool(maps, rois):
    return ops_cuda.multiscale_roi_align(maps, rois, SCALES, 4) * 2


def suppress(boxes, scores, classes):
    kept = ops_cuda.batched_nms(boxes, scores, classes, 0.5, 20)
    return boxes[kept] + 1, ops_cuda.nms(boxes[kept], scores[kept], 0.3)


def rasterize_and_paste(outlines, object_indices, boxes, masks):
    targets = ops_cuda.rasterize_polygons(*outlines, object_indices, boxes, 14)
    return targets.mean(0), ops_cuda.paste_masks(masks, boxes, 60, 80, 0.5).sum(0)


def encode(masks, boxes):
    counts, offsets = ops_cuda.encode_roi_masks_rle(masks, boxes, 60, 80, 0.5)
    return offsets + 1, ops_cuda.compress_rle(counts, offsets)


def propose(anchors, boxes, scores, classes):
    proposals = ops_cuda.select_proposals(*anchors, 50, 30, 0.7, 1e-3, 4.0)
    return *proposals, ops_cuda.batched_nms_mask(boxes, scores, classes, 0.5).sum()


def match(candidates, gt_boxes, offsets):
    matched_gt, labels = ops_cuda.match_boxes(candidates, gt_boxes, offsets, 0.5, 0.3, True)
    return matched_gt + 1, labels.sum(1)


def resample(runs, object_indices, boxes):
    return ops_cuda.rasterize_rle(*runs, object_indices, boxes, 14).mean(0)


def preprocess(images):
    first = ops_cuda.resize_image(images[0], 20, 50)
    sizes, mean, std = [(20, 50), (20, 64), (9, 9)], (120, 110, 100), (50, 60, 57)
    return ops_cuda.preprocess([first, *images[1:]], sizes, (48, 64), mean, std).relu()


def convolve(x, weight, bias):
    packed = ops_cuda.pack_conv3x3(weight)
    return ops_cuda.conv3x3_relu(x, packed, bias, len(weight)).mean(0)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (pool, (pyramid(channels=3, side=64), random_rois(5, side=64))),
        (suppress, (random_boxes(50), tied_scores(50), random_labels(50))),
        (resample, (random_runs(5), torch.arange(9) % 5, random_boxes(9))),
        (
            rasterize_and_paste,
            (random_outlines(5), torch.arange(9) % 5, random_boxes(9), torch.rand(9, 14, 14)),
        ),
        (encode, (torch.rand(9, 14, 14), random_boxes(9))),
        (propose, (scored_anchors(), random_boxes(50), tied_scores(50), random_labels(50))),
        (match, (random_boxes(50)[None], random_boxes(9, seed=1), torch.tensor([0, 4, 9]))),
        (preprocess, (random_images(),)),
        (convolve, (torch.rand(2, 3, 9, 5), torch.rand(40, 3, 3, 3), torch.rand(40))),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_callers_of_the_wrappers_compile_to_one_graph(function, arguments):
    actual = run_compiled(function, arguments)
    torch.testing.assert_close(actual, function(*arguments), rtol=0, atol=0)


def test_the_gradient_of_roi_align_compiles_too():
    maps, rois = pyramid(channels=3, side=64), random_rois(5, side=64)
    grads = []
    for function in (pool, torch.compile(pool, fullgraph=True, backend="aot_eager")):
        leaves = [each.clone().requires_grad_() for each in maps]
        function(leaves, rois).square().sum().backward()
        grads.append([each.grad for each in leaves])
    assert all(a.equal(b) for a, b in zip(*grads, strict=True))


def test_the_reference_runs_where_a_device_has_no_kernels(monkeypatch):
    monkeypatch.setattr(library, "KERNELS", {})
    nms_module = sys.modules["ops_cuda.nms"]  # the package attribute is the function
    monkeypatch.setattr(nms_module, "nms_reference", lambda *arguments: "the reference")
    assert ops_cuda.nms(random_boxes(3), tied_scores(3), 0.5) == "the reference"
    maps, rois = pyramid(), random_rois(9)
    options = (SCALES, 7, 2, True, 224.0, 4, 0.0)
    expected = torch.ops.ops_cuda.multiscale_roi_align(maps, rois, *options)
    actual = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def backend_in_new_process(**environment):
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


def test_the_library_loads_without_a_gpu():
    assert backend_in_new_process(CUDA_VISIBLE_DEVICES="") == ops_cuda.backend()


def damaged(library_name, folder):
    """Write a file that is not a library. Return it, and a PYTHONPATH that finds it."""
    file = folder / f"{library_name}.abi3.so"
    file.write_bytes(b"no library")
    return file, os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def test_a_library_that_does_not_load_is_named_and_replaced(tmp_path):
    file, path = damaged("_ops_cuda", tmp_path)
    backend = backend_in_new_process(PYTHONPATH=path, PYTHONSAFEPATH="1")
    assert backend.startswith(f"reference ({file} does not load")
    assert "\n" not in backend


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")
def test_cpu_kernels_remain_without_the_cuda_library(tmp_path):
    file, path = damaged("_ops_cuda_gpu", tmp_path)
    backend = backend_in_new_process(PYTHONPATH=path, PYTHONSAFEPATH="1")
    assert backend.startswith(f"compiled for cpu ({file} does not load")
    assert "\n" not in backend
