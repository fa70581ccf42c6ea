"""Each operator on a GPU against the same operator on the CPU."""

import pytest
import torch

import ops_cuda
from ops_cuda import library
from tests.ops_cuda.gpu import on_gpu
from tests.ops_cuda.scenes import (
    SCALES,
    deformed_map,
    judged_anchors,
    match_scene,
    pictures,
    pyramid,
    random_boxes,
    random_labels,
    random_outlines,
    random_rois,
    random_runs,
    tied_scores,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_the_library_has_cuda_kernels():
    assert "cuda" in library.KERNELS["nms"], ops_cuda.backend()


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms_keeps_the_same_indices(count, dtype):
    boxes, scores = random_boxes(count, extent=400.0).to(dtype), tied_scores(count).to(dtype)
    classes = random_labels(count, 20)
    if count > 60:
        boxes[5], boxes[6, 2], boxes[7, 2:] = float("nan"), float("inf"), boxes[7, :2]
        scores[8] = float("nan")
    for threshold, max_kept in ((0.0, -1), (0.5, -1), (0.7, 0), (0.7, 50), (1.0, -1)):
        for operator, arguments in (
            (ops_cuda.nms, (boxes, scores)),
            (ops_cuda.batched_nms, (boxes, scores, classes)),
        ):
            expected = operator(*arguments, threshold, max_kept)
            found = operator(*on_gpu(arguments), threshold, max_kept)
            assert found.is_cuda
            assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("size", [0, 1, 64, 65, 2000])
@pytest.mark.parametrize("ranked", [True, False], ids=["ranked", "unranked"])
def test_grouped_nms_and_survivors_are_the_same(size, ranked):
    boxes, scores = random_boxes(6 * size, extent=300.0), tied_scores(6 * size)
    grouped, rows = boxes.view(6, size, 4), scores.view(6, size)
    if ranked:
        rows = rows.sort(dim=1, descending=True, stable=True).values
    rows[:, 7::9] = -torch.inf
    for options in ((0.5, size), (0.7, 100), (0.7, 0)):
        expected = ops_cuda.grouped_nms(grouped, rows, *options, ranked)
        found = ops_cuda.grouped_nms(grouped.cuda(), rows.cuda(), *options, ranked)
        assert all(one.cpu().equal(other) for one, other in zip(found, expected, strict=True))
    for classes in (random_labels(6 * size, 20), torch.zeros(6 * size).long()):
        expected = ops_cuda.surviving_boxes(boxes, scores, classes, 0.5)
        found = ops_cuda.surviving_boxes(*on_gpu((boxes, scores, classes)), 0.5)
        assert found.cpu().equal(expected)


def test_top_scores_are_the_same_ties_included():
    scores = torch.cat([tied_scores(5000), -tied_scores(5000)])[None].repeat(2, 1)
    for count in (0, 700, 20_000):
        expected = ops_cuda.top_scores(scores, count)
        found = ops_cuda.top_scores(scores.cuda(), count)
        assert all(one.cpu().equal(other) for one, other in zip(found, expected, strict=True))


def propose(judged):
    return ops_cuda.select_proposals(*judged, 200, 100, 0.7, 1e-3, 4.0, 1.0)


def test_proposals_are_the_same_and_nobody_waits_for_them():
    judged = judged_anchors(per_level=(3000, 700, 90))
    expected, on_device = propose(judged), on_gpu(judged)
    torch.cuda.set_sync_debug_mode("error")
    try:
        boxes, scores, counts = propose(on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert counts.tolist() == expected[2].tolist()
    assert scores.cpu().equal(expected[1])
    # The GPU's exponential function may differ in its last bit.
    torch.testing.assert_close(boxes.cpu(), expected[0], rtol=1e-5, atol=1e-4)


def test_a_graph_of_proposals_serves_other_inputs():
    first, second = (judged_anchors(per_level=(3000, 700, 90), seed=seed) for seed in (6, 9))
    held = on_gpu(first)
    propose(held)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = propose(held)
    for judged in (first, second):
        for places, levels in zip(held[:3], judged[:3], strict=True):
            for place, level in zip(places, levels, strict=True):
                place.copy_(level)
        graph.replay()
        expected = propose(on_gpu(judged))
        assert all(one.equal(other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("channels", [1, 19, 64, 256])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roi_align_agrees_forward_and_backward(channels, channels_last, ratio, aligned, dtype):
    maps = pyramid(channels=channels, dtype=dtype, channels_last=channels_last)
    maps, rois = [each.requires_grad_() for each in maps], random_rois(60)
    arguments = (maps, rois, SCALES, 7, ratio, aligned, 224.0, 4, 0.0 if aligned else 1.0)
    expected, found = (
        ops_cuda.multiscale_roi_align(*arguments),
        ops_cuda.multiscale_roi_align(*on_gpu(arguments)),
    )
    assert found.stride() == expected.stride()
    close = (
        {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    )
    torch.testing.assert_close(found.cpu(), expected, **close)


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_agrees(channels_last, ratio, dtype):
    maps = pyramid(channels=40, dtype=dtype, channels_last=channels_last)
    maps, rois = [each.requires_grad_() for each in maps], random_rois(60)
    gpu_maps = on_gpu(maps)
    expected = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7, ratio)
    found = ops_cuda.multiscale_roi_align(gpu_maps, rois.cuda(), SCALES, 7, ratio)
    weights = torch.rand(expected.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    grads = torch.autograd.grad(expected, maps, weights)
    gpu_grads = torch.autograd.grad(found, gpu_maps, weights.cuda())
    # Atomics add in any order.
    close = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    for ours, theirs in zip(gpu_grads, grads, strict=True):
        assert ours.stride() == theirs.stride()
        torch.testing.assert_close(ours.cpu(), theirs, **close)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [19, 64])
def test_half_types_are_summed_in_float32(dtype, channels):
    maps = [each.requires_grad_() for each in pyramid(channels=channels, dtype=dtype)]
    rois = random_rois(60)
    gpu_maps = on_gpu(maps)
    expected = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7)
    found = ops_cuda.multiscale_roi_align(gpu_maps, rois.cuda(), SCALES, 7)
    # One rounding to the half type, of float32 sums that differ in their last bits.
    close = {"rtol": torch.finfo(dtype).eps, "atol": 1e-6}
    torch.testing.assert_close(found.cpu(), expected, **close)
    grads = torch.autograd.grad(expected.float().sum(), maps)
    gpu_grads = torch.autograd.grad(found.float().sum(), gpu_maps)
    for ours, theirs in zip(gpu_grads, grads, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=torch.finfo(dtype).eps, atol=1e-4)


def test_rois_that_are_no_rois_are_zero():
    maps = on_gpu(pyramid())
    nan, infinity = float("nan"), float("inf")
    rois = torch.tensor(
        [
            [0, nan, 10, 20, 20],
            [0, 10, 10, infinity, 20],
            [7, 10, 10, 20, 20],
            [-1, 10, 10, 20, 20],
            [nan, 10, 10, 20, 20],
        ]
    ).cuda()
    for ratio in (0, 2):
        assert ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7, ratio).eq(0).all()
    assert ops_cuda.multiscale_roi_align(maps, rois[:0], SCALES, 7).shape == (0, 19, 7, 7)


def test_kernels_run_on_the_current_stream():
    boxes, scores = random_boxes(3000, extent=300.0), tied_scores(3000)
    expected = ops_cuda.nms(boxes, scores, 0.5)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = boxes.cuda(non_blocking=True)
        torch.cuda._sleep(50_000_000)  # work on another stream would overtake this copy
        moved = late + 0
        found = ops_cuda.nms(moved, scores.cuda(), 0.5)
    stream.synchronize()
    assert found.tolist() == expected.tolist()


def test_the_training_operators_do_not_wait_for_the_gpu():
    maps = [each.requires_grad_() for each in on_gpu(pyramid())]
    rois = random_rois(60).cuda()
    outlines, runs = on_gpu(random_outlines(6)), on_gpu(random_runs(6))
    wanted, boxes = (torch.arange(60) % 6).cuda(), random_boxes(60).cuda()
    images = on_gpu(pictures())
    torch.cuda.set_sync_debug_mode("error")
    try:
        pooled = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7)
        pooled.sum().backward()
        ops_cuda.rasterize_polygons(*outlines, wanted, boxes, 28)
        ops_cuda.rasterize_rle(*runs, wanted, boxes, 28)
        ops_cuda.paste_masks(torch.rand(60, 28, 28, device="cuda"), boxes, 90, 90, 0.5)
        ops_cuda.preprocess(images, [(40, 30)] * 3, (48, 64), (1, 2, 3), (4, 5, 6))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_with_the_operators_can_be_captured_as_a_graph():
    maps, rois = on_gpu(pyramid(channels=64)), random_rois(60).cuda()
    expected = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        pooled = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7)
    graph.replay()
    assert pooled.equal(expected)


def test_operators_compile_to_one_graph_on_the_gpu():
    def pool(levels, regions):
        return ops_cuda.multiscale_roi_align(levels, regions, SCALES, 4) * 2

    maps, rois = on_gpu(pyramid(channels=8)), random_rois(5).cuda()
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    assert compiled(maps, rois).equal(pool(maps, rois))


@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize("count", [0, 1, 127, 129, 20_000])
@pytest.mark.parametrize("shared", [True, False], ids=["anchors", "proposals"])
def test_matches_agree_in_every_bit(count, shared, keep_best):
    arguments = match_scene(count, shared)
    expected = ops_cuda.match_boxes(*arguments, 0.5, 0.3, keep_best)
    on_device = on_gpu(arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = ops_cuda.match_boxes(*on_device, 0.5, 0.3, keep_best)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(found, expected, strict=True):
        assert one.cpu().equal(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_deformable_convolution_and_its_gradients_are_alike(dtype):
    x, offsets, modulation = deformed_map(groups=2)
    weight = torch.rand(4, 6, 3, 3)
    geometry = {"stride": (2, 2), "padding": (2, 1), "dilation": (2, 1)}

    def run(device):
        leaves = [t.to(device).detach().requires_grad_() for t in (x, offsets, weight, modulation)]
        map_, shifts, filters, strengths = leaves
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            y = ops_cuda.deform_conv2d(map_, shifts, filters, None, strengths, **geometry)
        y.float().square().sum().backward()
        return [y, *(leaf.grad for leaf in leaves)]

    # sums in another order; of bfloat16 eight bits, here of sums of fifty products
    close = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 0.1, "atol": 5.0}
    for found, expected in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(found.cpu().float(), expected.float(), **close)
