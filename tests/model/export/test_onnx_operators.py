"""Each operator computes in ONNX what the compiled operator computes."""

import itertools

import onnxruntime
import pytest
import torch
from torch.export import Dim

import ops_cuda
from model.export.onnx_operators import DECOMPOSITIONS, OPSET, TRANSLATIONS


class _Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arguments):
        return self.function(*arguments)


def _to_onnx(function, arguments, dynamic):
    """Return a function of tensors as the bytes of an ONNX file.

    Args:
        function: what to export.
        arguments: examples of its arguments.
        dynamic: for each argument, whether its number of rows varies.
    """
    n = Dim("rows")
    shapes = tuple({0: n} if varies else None for varies in dynamic)
    program = torch.export.export(
        _Function(function).eval(), arguments, dynamic_shapes=(shapes,), strict=False
    )
    exported = torch.onnx.export(
        program.run_decompositions(DECOMPOSITIONS),
        opset_version=OPSET,
        custom_translation_table=TRANSLATIONS,
        verbose=False,
        optimize=False,
    )
    return exported.model_proto.SerializeToString()


def _in_onnx(function, arguments, dynamic):
    """Return a function of tensors that runs in onnxruntime; arguments as for `_to_onnx`."""
    session = onnxruntime.InferenceSession(
        _to_onnx(function, arguments, dynamic), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]

    def run(*values):
        feed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return [torch.from_numpy(result) for result in session.run(None, feed)]

    return run


def _random_boxes(count, generator, largest=120.0):
    corner = torch.rand(count, 2, generator=generator) * largest
    return torch.cat((corner, corner + torch.rand(count, 2, generator=generator) * largest), 1)


def test_roi_align_pools_the_same_pixels_of_the_same_levels():
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, 3, 64 // 2**level, 48 // 2**level, generator=generator) for level in range(3)
    ]
    scales = [1 / 4, 1 / 8, 1 / 16]

    def pool(rois, *features):
        return tuple(
            ops_cuda.multiscale_roi_align(
                features, rois, scales, 5, samples, aligned, 64.0, 3, far_corner_inset=inset
            )
            for samples, aligned, inset in (
                (2, True, 0),
                (0, True, 0),
                (2, False, 0),
                (2, False, 1),
            )
        )

    boxes = _random_boxes(60, generator, 140.0)
    boxes[:4] = torch.tensor(
        [[-30.0, -20, 10, 12], [150, 200, 260, 300], [40, 40, 40.5, 40.2], [0, 0, 192, 256]]
    )
    rois = torch.cat((torch.randint(0, 2, (60, 1), generator=generator).float(), boxes), 1)
    run = _in_onnx(pool, (rois, *maps), (True, False, False, False))
    expected = pool(rois, *maps)
    for result, reference in zip(run(rois, *maps), expected, strict=True):
        # Sums of the same samples in another order.
        torch.testing.assert_close(result, reference, atol=1e-4, rtol=1e-4)
    pairs = itertools.combinations(expected, 2)
    assert all((one - other).abs().max() > 0.1 for one, other in pairs)
    assert all(result.shape == (0, 3, 5, 5) for result in run(rois[:0], *maps))


def test_nms_is_within_classes_and_ranks_equal_scores_by_index():
    generator = torch.Generator().manual_seed(1)

    def survive(boxes, scores, classes):
        return ops_cuda.batched_nms_mask(boxes, scores, classes, 0.4)

    boxes = _random_boxes(400, generator)
    scores = (torch.rand(400, generator=generator) * 20).round() / 20 - 0.5
    scores[::9] = -torch.inf
    classes = torch.randint(0, 4, (400,), generator=generator) * 3
    run = _in_onnx(survive, (boxes, scores, classes), (True, True, True))
    for count in (400, 1, 0):
        arguments = boxes[:count], scores[:count], classes[:count]
        # Whether boxes at -inf survive is undefined.
        result, expected = (
            mask & (scores[:count] > -torch.inf)
            for mask in (run(*arguments)[0], survive(*arguments))
        )
        assert torch.equal(result, expected)
    assert 20 < survive(boxes, scores, classes).sum() < 300


@pytest.mark.parametrize("descending", [False, True])
def test_equal_integers_stay_in_order_in_openvino_too(descending):
    openvino = pytest.importorskip("openvino", reason="pip install openvino")

    def sort(values):
        return values.sort(stable=True, descending=descending)

    values = torch.randint(0, 3, (300,), generator=torch.Generator().manual_seed(5))
    core = openvino.Core()
    model = core.read_model(_to_onnx(sort, (values,), (True,)), b"")
    results = core.compile_model(model, "CPU")([values.numpy()])
    for result, expected in zip(results.values(), sort(values), strict=True):
        assert result.tolist() == expected.tolist()


def test_proposals_are_the_same_boxes_in_the_same_order():
    generator = torch.Generator().manual_seed(2)
    anchors = [_random_boxes(count, generator) for count in (300, 80)]
    deltas = [0.3 * torch.randn(1, len(level), 4, generator=generator) for level in anchors]
    logits = [torch.randn(1, len(level), generator=generator) for level in anchors]
    logits[0][0, 50:150:2] = 1.5
    limits = torch.tensor([[200.0, 150.0, 200.0, 150.0]])

    def propose(*inputs):
        return ops_cuda.select_proposals(
            inputs[:2], inputs[2:4], inputs[4:6], inputs[6], 100, 40, 0.5, 2.0, 4.0
        )

    inputs = (*logits, *deltas, *anchors, limits)
    results = _in_onnx(propose, inputs, (False,) * 7)(*inputs)
    for result, expected in zip(results, propose(*inputs), strict=True):
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def test_deformed_taps_sample_the_same_positions():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 2, 3, 3, generator=generator)

    def deform(x, offsets, modulation):
        geometry = ((2, 2), (2, 2), (2, 2))
        return (
            ops_cuda.deform_conv2d(x, offsets, weight, None, modulation, *geometry),
            ops_cuda.deform_conv2d(x, offsets, weight, weight[:, 0, 0, 0], None, *geometry),
        )

    x = torch.randn(1, 4, 11, 14, generator=generator)
    offsets = 3 * torch.randn(1, 18, 6, 7, generator=generator)
    inputs = (x, offsets, torch.rand(1, 9, 6, 7, generator=generator))
    with torch.no_grad():
        run = _in_onnx(deform, inputs, (False,) * 3)
        for result, expected in zip(run(*inputs), deform(*inputs), strict=True):
            # GridSample takes positions relative to the map; rounding moves them by 1e-6.
            torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)
