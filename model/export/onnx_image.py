"""An ONNX graph that resizes an image of any size to the size that the network reads.

Functions with ``@script`` are compiled to ONNX. Their operators are those of ``opset18``; sizes and
lengths are int64 of shape (1,), or (2,) for height and width.

Shapes: h w the image, H W the resized image, S source pixels of an axis, L its new length, T taps:
the source pixels that a new pixel depends on.
"""
# mypy: disallow-untyped-decorators=False
# (mypy does not read onnxscript, so its decorator has no type)

import onnx
import onnx.compose
import onnx.inliner
from onnxscript import DOUBLE, FLOAT, INT32, INT64, UINT8, script
from onnxscript import opset18 as op

from model.config import ModelConfig

_INT32, _INT64, _FLOAT, _DOUBLE = 6, 7, 1, 11
# Weights of `resize_levels` are multiples of 1 / 2**22, computed in two steps of 2**11: a product
# of more would overflow where int64 is computed in 32 bits (OpenVINO).
_STEP, _TWO_STEPS, _ONE, _HALF = 1 << 11, 1 << 12, 1 << 22, 1 << 21


@script(default_opset=op)
def scaled_size(size: INT64[...], short: DOUBLE, long: DOUBLE, offset: DOUBLE) -> INT64[...]:
    """Return the new size of an image; ``model.preprocess.resized_size`` with nearest or floor."""
    sides = op.Cast(size, to=_DOUBLE)
    scale = op.Min(short / op.ReduceMin(sides), long / op.ReduceMax(sides))
    return op.Max(op.Cast(sides * scale + offset, to=_INT64), op.Constant(value_int=1))


@script(default_opset=op)
def size_rounded_down(size: INT64[...], short: DOUBLE, long: DOUBLE, offset: DOUBLE) -> INT64[...]:
    """Return the new size of an image; ``model.preprocess.resized_size`` with down."""
    sides = op.Cast(size, to=_DOUBLE)
    shorter, longer = op.ReduceMin(sides), op.ReduceMax(sides)
    limited = op.Max(
        op.Round(long * shorter / longer), op.Cast(op.Constant(value_int=1), to=_DOUBLE)
    )
    short = op.Cast(op.Where(longer / shorter * short > long, limited, short), to=_INT64)
    shorter_side = op.ReduceMin(size)
    return op.Where(size == shorter_side, short, short * op.ReduceMax(size) / shorter_side)


@script(default_opset=op)
def taps_and_tents(
    source: INT64[...], length: INT64[...], reach: INT64[...]
) -> tuple[INT64[...], INT64[...]]:
    """Return source pixels (L, T) and their weights before normalization, both whole numbers.

    ``reach / length`` is the distance, in source pixels, at which the weight becomes zero. All
    numbers are multiplied by 2 L, so that they are whole.
    """
    zero, one, two = op.Constant(value_int=0), op.Constant(value_int=1), op.Constant(value_int=2)
    rows = op.Range(zero, op.Squeeze(length), one)
    centers = op.Unsqueeze((rows * two + one) * source, op.Constant(value_ints=[1]))
    first = op.Max(centers - two * reach + length, zero) / (two * length)
    count = (two * reach + length - one) / length
    taps = first + op.Range(zero, op.Squeeze(count), one)
    tents = op.Max(two * reach - op.Abs((two * taps + one) * length - centers), zero)
    return op.Min(taps, source - one), op.Where(taps < source, tents, zero)


@script(default_opset=op)
def resize_levels(levels: INT32[...], length: INT64[...]) -> INT32[...]:
    """Resize (S, n, 3) int32 to (L, n, 3) as Pillow does, with its weights and its rounding."""
    source = op.Shape(levels, start=0, end=1)
    taps, tents = taps_and_tents(source, length, op.Max(source, length))
    total = op.ReduceSum(tents, op.Constant(value_ints=[1]))
    coarse = tents * op.Constant(value_int=_STEP) / total
    rest = tents * op.Constant(value_int=_STEP) - coarse * total
    fine = (rest * op.Constant(value_int=_TWO_STEPS) + total) / (total + total)
    weights = op.Cast(coarse * op.Constant(value_int=_STEP) + fine, to=_INT32)
    one = op.Cast(op.Constant(value_int=_ONE), to=_INT32)
    shape = op.Concat(length, op.Shape(levels, start=1), axis=0)
    sums = op.Expand(op.Cast(op.Constant(value_int=_HALF), to=_INT32), shape)
    for tap in range(op.Squeeze(op.Shape(taps, start=1, end=2))):
        weight = op.Unsqueeze(op.Gather(weights, tap, axis=1), op.Constant(value_ints=[1, 2]))
        sums = sums + op.Gather(levels, op.Gather(taps, tap, axis=1), axis=0) * weight
    resized = sums / one
    # OpenVINO divides in float32, which may round up to the next level.
    none = op.Cast(op.Constant(value_int=0), to=_INT32)
    return resized - op.Cast(sums - resized * one < none, to=_INT32)


@script(default_opset=op)
def interpolate_levels(levels: FLOAT[...], length: INT64[...]) -> FLOAT[...]:
    """Resize (S, n, 3) float32 to (L, n, 3) linearly between two pixels, without rounding."""
    taps, tents = taps_and_tents(op.Shape(levels, start=0, end=1), length, length)
    weights = op.Cast(tents, to=_FLOAT)
    weights = weights / op.ReduceSum(weights, op.Constant(value_ints=[1]))
    first, second = op.Constant(value_int=0), op.Constant(value_int=1)
    axes = op.Constant(value_ints=[1, 2])
    before = op.Gather(levels, op.Gather(taps, first, axis=1), axis=0)
    after = op.Gather(levels, op.Gather(taps, second, axis=1), axis=0)
    return before * op.Unsqueeze(op.Gather(weights, first, axis=1), axes) + (
        after * op.Unsqueeze(op.Gather(weights, second, axis=1), axes)
    )


@script(default_opset=op)
def resize_with_antialiasing(pixels: UINT8[...], size: INT64[...]) -> FLOAT[...]:
    """Resize (h, w, 3) uint8 to (H, W, 3) float32; the levels of ``ops_cuda.resize_image``."""
    old = op.Shape(pixels, start=0, end=2)
    height, width = op.Split(size, num_outputs=2)
    shrinks = old - size
    first = op.Constant(value_int=0)
    second = op.Constant(value_int=1)
    if op.ReduceMax(op.Abs(shrinks)) == first:
        resized = op.Cast(pixels, to=_FLOAT)
    else:
        levels = op.Cast(pixels, to=_INT32)
        lost_rows = op.Gather(shrinks, first)
        if op.And(lost_rows > first, lost_rows > op.Gather(shrinks, second) * 2):
            rows = op.Transpose(resize_levels(levels, height), perm=[1, 0, 2])
            both = op.Transpose(resize_levels(rows, width), perm=[1, 0, 2])
        else:
            columns = resize_levels(op.Transpose(levels, perm=[1, 0, 2]), width)
            both = resize_levels(op.Transpose(columns, perm=[1, 0, 2]), height)
        resized = op.Cast(both, to=_FLOAT)
    return resized


@script(default_opset=op)
def resize_between_pixels(pixels: UINT8[...], size: INT64[...]) -> FLOAT[...]:
    """Resize (h, w, 3) uint8 to (H, W, 3) float32, without antialiasing or rounding."""
    height, width = op.Split(size, num_outputs=2)
    rows = interpolate_levels(op.Cast(pixels, to=_FLOAT), height)
    columns = interpolate_levels(op.Transpose(rows, perm=[1, 0, 2]), width)
    return op.Transpose(columns, perm=[1, 0, 2])


def resizing_graph(config: ModelConfig) -> onnx.ModelProto:
    """Return the graph that resizes an image by the rules of a detector.

    Args:
        config: settings of the detector.

    Returns:
        A graph whose input ``pixels`` is an image (h, w, 3) uint8. Its outputs are
        ``network_pixels``, the levels (H, W, 3) that the detector computes, whole numbers if it
        resizes with antialiasing; and ``ratio``, the old width and height divided by the new, (2,).
        Both are float32.
    """
    settings, conventions = config.input, config.conventions
    added = 0.0 if conventions.resize_rounding == "floor" else 0.5
    limits = [float(settings.short_side), float(settings.long_side), added]
    new_size = size_rounded_down if conventions.resize_rounding == "down" else scaled_size
    antialias = conventions.resize_filter == "antialias"
    resize = resize_with_antialiasing if antialias else resize_between_pixels

    @script(default_opset=op)
    def image_to_network(pixels: UINT8[...]) -> tuple[FLOAT[...], FLOAT[...]]:
        old = op.Shape(pixels, start=0, end=2)
        doubles = op.Cast(op.Constant(value_floats=limits), to=_DOUBLE)
        short, long, offset = op.Split(doubles, num_outputs=3)
        new = new_size(old, short, long, offset)
        ratios = op.Cast(op.Cast(old, to=_DOUBLE) / op.Cast(new, to=_DOUBLE), to=_FLOAT)
        network_pixels = resize(pixels, new)
        ratio = op.Gather(ratios, op.Constant(value_ints=[1, 0]))
        return network_pixels, ratio

    model = image_to_network.to_model_proto(
        input_types=[UINT8["height", "width", 3]],
        output_types=[FLOAT["network_height", "network_width", 3], FLOAT[2]],
    )
    inlined = onnx.inliner.inline_local_functions(model)
    standard = [opset for opset in inlined.opset_import if not opset.domain]
    return onnx.helper.make_model(inlined.graph, opset_imports=standard)


def prepend_resizing(network: onnx.ModelProto, config: ModelConfig) -> onnx.ModelProto:
    """Return a network that resizes its images.

    Args:
        network: its inputs are ``pixels`` (H, W, 3) and ``ratio`` (2,), the outputs of
            :func:`resizing_graph`.
        config: settings of the detector.
    """
    resizing = resizing_graph(config)
    resizing.ir_version = network.ir_version
    prefixed = onnx.compose.add_prefix(
        resizing, "resizing/", rename_inputs=False, rename_outputs=True
    )
    names = {"network_pixels": "pixels", "ratio": "ratio"}
    io_map = [(f"resizing/{ours}", theirs) for ours, theirs in names.items()]
    merged = onnx.compose.merge_models(prefixed, network, io_map)
    return onnx.helper.make_model(
        merged.graph, ir_version=merged.ir_version, opset_imports=network.opset_import
    )
