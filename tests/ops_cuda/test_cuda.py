"""Every operator on a GPU against the same operator on the CPU."""

import pytest
import torch

import ops_cuda
from ops_cuda import library
from tests.ops_cuda.examples import examples, run_example
from tests.ops_cuda.gpu import on_gpu
from tests.ops_cuda.scenes import (
    SCALES,
    deformed_map,
    match_scene,
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

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_the_library_has_cuda_kernels():
    assert "cuda" in library.KERNELS["nms"], ops_cuda.backend()


@pytest.mark.parametrize("name", sorted(examples()))
def test_every_operator_agrees_with_the_cpu_on_its_example(name):
    if "cuda" not in library.KERNELS[name]:
        pytest.skip("no CUDA kernel")
    operator, arguments = getattr(torch.ops.ops_cuda, name), examples()[name]
    with torch.no_grad():
        expected = run_example(operator, arguments)
        actual = run_example(operator, on_gpu(arguments))
    # sums in another order, and another exponential function; integers are compared exactly
    torch.testing.assert_close(actual, on_gpu(expected), rtol=1e-5, atol=1e-5)


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
            actual = operator(*on_gpu(arguments), threshold, max_kept)
            assert actual.is_cuda
            assert actual.tolist() == expected.tolist()


@pytest.mark.parametrize("size", [0, 1, 64, 65, 2000])
@pytest.mark.parametrize("presorted", [True, False], ids=["presorted", "unsorted"])
def test_grouped_nms_and_batched_nms_mask_are_the_same(size, presorted):
    boxes, scores = random_boxes(6 * size, extent=300.0), tied_scores(6 * size)
    grouped, rows = boxes.view(6, size, 4), scores.view(6, size)
    if presorted:
        rows = rows.sort(dim=1, descending=True, stable=True).values
    rows[:, 7::9] = -torch.inf
    for options in ((0.5, size), (0.7, 100), (0.7, 0)):
        expected = ops_cuda.grouped_nms(grouped, rows, *options, presorted)
        actual = ops_cuda.grouped_nms(grouped.cuda(), rows.cuda(), *options, presorted)
        assert all(one.cpu().equal(other) for one, other in zip(actual, expected, strict=True))
    for classes in (random_labels(6 * size, 20), torch.zeros(6 * size).long()):
        expected = ops_cuda.batched_nms_mask(boxes, scores, classes, 0.5)
        actual = ops_cuda.batched_nms_mask(*on_gpu((boxes, scores, classes)), 0.5)
        assert actual.cpu().equal(expected)


def test_stable_topk_is_the_same_including_ties():
    scores = torch.cat([tied_scores(5000), -tied_scores(5000)])[None].repeat(2, 1)
    for count in (0, 700, 20_000):
        expected = ops_cuda.stable_topk(scores, count)
        actual = ops_cuda.stable_topk(scores.cuda(), count)
        assert all(one.cpu().equal(other) for one, other in zip(actual, expected, strict=True))


def propose(scored):
    return ops_cuda.select_proposals(*scored, 200, 100, 0.7, 1e-3, 4.0, 1.0)


def test_proposals_are_the_same_without_a_device_sync():
    scored = scored_anchors(per_level=(3000, 700, 90))
    expected, on_device = propose(scored), on_gpu(scored)
    torch.cuda.set_sync_debug_mode("error")
    try:
        boxes, scores, counts = propose(on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert counts.tolist() == expected[2].tolist()
    assert scores.cpu().equal(expected[1])
    # The exponential function of the GPU may differ in the last bit.
    torch.testing.assert_close(boxes.cpu(), expected[0], rtol=1e-5, atol=1e-4)


def test_a_captured_graph_of_proposals_runs_on_other_inputs():
    first, second = (scored_anchors(per_level=(3000, 700, 90), seed=seed) for seed in (6, 9))
    inputs = on_gpu(first)
    propose(inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        actual = propose(inputs)
    for scored in (first, second):
        for buffers, levels in zip(inputs[:3], scored[:3], strict=True):
            for buffer, level in zip(buffers, levels, strict=True):
                buffer.copy_(level)
        graph.replay()
        expected = propose(on_gpu(scored))
        assert all(one.equal(other) for one, other in zip(actual, expected, strict=True))


@pytest.mark.parametrize("channels", [1, 19, 64, 256])
@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "legacy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roi_align_agrees_forward_and_backward(channels, channels_last, ratio, aligned, dtype):
    maps = pyramid(channels=channels, dtype=dtype, channels_last=channels_last)
    maps, rois = [each.requires_grad_() for each in maps], random_rois(60)
    arguments = (maps, rois, SCALES, 7, ratio, aligned, 224.0, 4, 0.0 if aligned else 1.0)
    expected, actual = (
        ops_cuda.multiscale_roi_align(*arguments),
        ops_cuda.multiscale_roi_align(*on_gpu(arguments)),
    )
    assert actual.stride() == expected.stride()
    close = (
        {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    )
    torch.testing.assert_close(actual.cpu(), expected, **close)


@pytest.mark.parametrize("channels_last", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_of_roi_align_agrees(channels_last, ratio, dtype):
    maps = pyramid(channels=40, dtype=dtype, channels_last=channels_last)
    maps, rois = [each.requires_grad_() for each in maps], random_rois(60)
    gpu_maps = on_gpu(maps)
    expected = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7, ratio)
    actual = ops_cuda.multiscale_roi_align(gpu_maps, rois.cuda(), SCALES, 7, ratio)
    weights = torch.rand(expected.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    grads = torch.autograd.grad(expected, maps, weights)
    gpu_grads = torch.autograd.grad(actual, gpu_maps, weights.cuda())
    # Atomics add in any order.
    close = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    for gpu_grad, grad in zip(gpu_grads, grads, strict=True):
        assert gpu_grad.stride() == grad.stride()
        torch.testing.assert_close(gpu_grad.cpu(), grad, **close)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [19, 64])
def test_half_types_are_summed_in_float32(dtype, channels):
    maps = [each.requires_grad_() for each in pyramid(channels=channels, dtype=dtype)]
    rois = random_rois(60)
    gpu_maps = on_gpu(maps)
    expected = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7)
    actual = ops_cuda.multiscale_roi_align(gpu_maps, rois.cuda(), SCALES, 7)
    # Rounded once to the half type, from float32 sums that differ in their last bits.
    close = {"rtol": torch.finfo(dtype).eps, "atol": 1e-6}
    torch.testing.assert_close(actual.cpu(), expected, **close)
    grads = torch.autograd.grad(expected.float().sum(), maps)
    gpu_grads = torch.autograd.grad(actual.float().sum(), gpu_maps)
    for gpu_grad, grad in zip(gpu_grads, grads, strict=True):
        torch.testing.assert_close(gpu_grad.cpu(), grad, rtol=torch.finfo(dtype).eps, atol=1e-4)


def test_invalid_rois_are_zero():
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
        torch.cuda._sleep(50_000_000)  # kernels on another stream would run before this copy
        moved = late + 0
        actual = ops_cuda.nms(moved, scores.cuda(), 0.5)
    stream.synchronize()
    assert actual.tolist() == expected.tolist()


def test_the_training_operators_need_no_device_sync():
    maps = [each.requires_grad_() for each in on_gpu(pyramid())]
    rois = random_rois(60).cuda()
    outlines, runs = on_gpu(random_outlines(6)), on_gpu(random_runs(6))
    object_indices, boxes = (torch.arange(60) % 6).cuda(), random_boxes(60).cuda()
    images = on_gpu(random_images())
    torch.cuda.set_sync_debug_mode("error")
    try:
        pooled = ops_cuda.multiscale_roi_align(maps, rois, SCALES, 7)
        pooled.sum().backward()
        ops_cuda.rasterize_polygons(*outlines, object_indices, boxes, 28)
        ops_cuda.rasterize_rle(*runs, object_indices, boxes, 28)
        ops_cuda.paste_masks(torch.rand(60, 28, 28, device="cuda"), boxes, 90, 90, 0.5)
        ops_cuda.preprocess(images, [(40, 30)] * 3, (48, 64), (1, 2, 3), (4, 5, 6))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_roi_align_can_be_captured_as_a_graph():
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


@pytest.mark.parametrize("allow_low_quality", [True, False])
@pytest.mark.parametrize("count", [0, 1, 127, 129, 20_000])
@pytest.mark.parametrize("shared", [True, False], ids=["anchors", "proposals"])
def test_matches_agree_in_every_bit(count, shared, allow_low_quality):
    arguments = match_scene(count, shared)
    expected = ops_cuda.match_boxes(*arguments, 0.5, 0.3, allow_low_quality)
    on_device = on_gpu(arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = ops_cuda.match_boxes(*on_device, 0.5, 0.3, allow_low_quality)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(actual, expected, strict=True):
        assert one.cpu().equal(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deformable_convolution_and_its_gradients_agree(dtype):
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

    # sums in another order; bfloat16 has eight bits, here for sums of fifty products
    close = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 0.1, "atol": 5.0}
    for actual, expected in zip(run("cuda"), run("cpu"), strict=True):
        torch.testing.assert_close(actual.cpu().float(), expected.float(), **close)
