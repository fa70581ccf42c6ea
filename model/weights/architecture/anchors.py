"""Anchors that belong to weights: stored with them, counted in them, or stated by a config.

Shapes: L levels, S sizes, R ratios, A = S * R anchors per cell.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import ModelConfig, RetinaNetConfig
from model.weights.report import WeightsError
from model.weights.stated_settings import replace_settings, stated_settings

# maskrcnn-benchmark and detectron2 before 0.5 save the anchors of a cell.
_STORED = r"(?:rpn\.|proposal_generator\.)?anchor_generator\.cell_anchors\.(\d+)"
_PYRAMID_LEVELS = 5
_CLOSE = 1e-3


class AnchorCountError(WeightsError):
    """The weights have another number of anchors per cell than the config."""


class _UnsupportedAnchorsError(ValueError):
    """No config describes these anchors."""


def check_anchor_count(tensors: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Raise if the RPN has another number of anchors per cell than its config.

    Args:
        tensors: under our names.
        config: config of the detector that they fill.

    Raises:
        AnchorCountError: the numbers differ.
    """
    rows, rpn = tensors.get("rpn.head.objectness.weight"), config.rpn
    sizes = 1 if config.backbone.features == "fpn" else len(rpn.anchor_sizes)
    ratios = len(rpn.anchor_ratios)
    if rows is not None and len(rows) != sizes * ratios:
        raise AnchorCountError(
            f"{len(rows)} anchors per cell are not {sizes} sizes x {ratios} ratios: set "
            "model.rpn.anchor_sizes and model.rpn.anchor_ratios"
        )


def take_stated_anchors(config: ModelConfig, other: ModelConfig) -> ModelConfig:
    """Return ``config`` with the anchors that ``other`` states and ``config`` does not."""
    anchors = {}
    for section in ("rpn", "retinanet"):
        ours, theirs = getattr(config, section), getattr(other, section)
        for name in ("anchor_sizes", "anchor_ratios") if ours and theirs else ():
            if name in theirs.model_fields_set and name not in ours.model_fields_set:
                anchors[f"{section}.{name}"] = getattr(theirs, name)
    return replace_settings(config, anchors)


def read_stored_anchors(
    tensors: Mapping[str, Tensor], config: ModelConfig, one_stage: bool, by_size: bool
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return the config with the anchors that the file stores, if any, unless it states others.

    Anchors that no config can describe are left out, and a note says so.

    Args:
        tensors: under the file's names.
        config: settings that cannot be inferred from weights.
        one_stage: they are RetinaNet's.
        by_size: the anchors of a cell are exact and ordered by size first, as in detectron2. Else
            they are maskrcnn-benchmark's, which include their last pixel; their ratios are rounded
            and not read.

    Returns:
        The config, and notes.
    """
    matches = ((re.fullmatch(_STORED, name), tensor) for name, tensor in tensors.items())
    levels = sorted((int(match[1]), tensor) for match, tensor in matches if match)
    sides = [tensor[:, 2:] - tensor[:, :2] for _, tensor in levels if tensor.shape[1:] == (4,)]
    if len(sides) not in (1, _PYRAMID_LEVELS) or not all((wh > 0).all() for wh in sides):
        return config, ()
    try:
        values = _settings_of_anchors([wh.float() for wh in sides], one_stage, by_size)
    except _UnsupportedAnchorsError as error:
        return config, (f"the anchors in the file are not supported, others are used: {error}",)
    if one_stage and config.retinanet is None:
        config = config.model_copy(update={"retinanet": RetinaNetConfig()})
    stated = stated_settings(config)
    return replace_settings(config, {k: v for k, v in values.items() if k not in stated}), ()


def _settings_of_anchors(
    sides: list[Tensor], one_stage: bool, by_size: bool
) -> dict[str, tuple[float, ...]]:
    """Return sizes and ratios by dotted key.

    Args:
        sides: width and height of the anchors of each level, (A, 2), pixels.
        one_stage: as for `read_stored_anchors`.
        by_size: as for `read_stored_anchors`.

    Raises:
        _UnsupportedAnchorsError: no config describes them.
    """
    read = _read_sizes_and_ratios if by_size else _read_square_sizes
    cells = [read(wh) for wh in sides]
    sizes = [sizes for sizes, _ in cells]
    values = {}
    if one_stage:
        values["retinanet.anchor_sizes"] = _smallest_of_octaves(sizes)
    elif len(sizes) == 1:
        values["rpn.anchor_sizes"] = tuple(sizes[0])
    elif all(len(level) == 1 for level in sizes):
        values["rpn.anchor_sizes"] = tuple(size for [size] in sizes)
    ratios = {ratios for _, ratios in cells}
    if len(ratios) > 1:
        raise _UnsupportedAnchorsError(f"their ratios differ between levels: {ratios}")
    if common := ratios.pop():
        values[f"{'retinanet' if one_stage else 'rpn'}.anchor_ratios"] = common
    return values


def _read_sizes_and_ratios(sides: Tensor) -> tuple[list[float], tuple[float, ...]]:
    """Return the S sizes and R ratios of anchors ordered by size.

    Args:
        sides: (A, 2) width and height, pixels.

    Raises:
        _UnsupportedAnchorsError: the anchors are not every size in every ratio.
    """
    size, ratio = sides.prod(dim=1).sqrt(), sides[:, 1] / sides[:, 0]
    count = int(size.isclose(size[0], rtol=_CLOSE).sum())
    sizes, ratios = size[::count], ratio[:count]
    expected = torch.cartesian_prod(sizes, ratios).view(-1, 2)
    actual = torch.stack((size, ratio), dim=1)
    if expected.shape != actual.shape or not expected.allclose(actual, rtol=_CLOSE):
        raise _UnsupportedAnchorsError("they are not every size in every ratio")
    return _rounded(sizes), tuple(_rounded(ratios))


def _read_square_sizes(sides: Tensor) -> tuple[list[float], tuple[float, ...]]:
    """Return the sizes of the square anchors, which are exact, and no ratios.

    Args:
        sides: (A, 2) width and height without the last pixel.

    Raises:
        _UnsupportedAnchorsError: no anchor is a square.
    """
    width, height = (sides + 1).unbind(1)
    squares = width[width.isclose(height, rtol=_CLOSE)]
    if not len(squares):
        raise _UnsupportedAnchorsError("none of them is a square")
    return _rounded(squares), ()


def _smallest_of_octaves(sizes: list[list[float]]) -> tuple[float, ...]:
    """Return the smallest of the S sizes of each level, which must spread over an octave.

    Raises:
        _UnsupportedAnchorsError: they do not.
    """
    for level in sizes:
        octave = torch.tensor([level[0] * 2 ** (step / len(level)) for step in range(len(level))])
        if not torch.tensor(level).allclose(octave, rtol=_CLOSE):
            raise _UnsupportedAnchorsError(f"{level} are not spread over an octave")
    return tuple(level[0] for level in sizes)


def _rounded(values: Tensor) -> list[float]:
    # float32: no more than 6 digits are exact.
    return [float(f"{value:.6g}") for value in values.tolist()]
