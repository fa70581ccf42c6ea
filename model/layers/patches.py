"""Gather the 3x3 neighborhoods of a few cells, to run a 3x3 convolution on those cells only.

Shapes as in ``model.structures``; S sampled cells per image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NEIGHBORS = 9  # of a 3x3 convolution, the cell itself included


def patches_save_work(features: Sequence[Tensor], samples: int) -> bool:
    """Return whether the patches of ``samples`` cells per image are smaller than the pyramid."""
    return NEIGHBORS * samples < sum(feature.shape[2] * feature.shape[3] for feature in features)


def gather_patches(features: Sequence[Tensor], cells: Tensor) -> Tensor:
    """Return the 3x3 neighborhoods of the given cells, zeros outside the feature map.

    Args:
        features: per level (B, C, H_l, W_l); fastest in channels_last layout.
        cells: (B, S) int64, index among the cells of all levels, row by row, finest first.

    Returns:
        (B, S, 9 * C): the neighbors row by row, each with all channels. Gradients flow to the
        features.
    """
    neighbor = torch.arange(NEIGHBORS, device=cells.device)
    image = torch.arange(len(cells), device=cells.device)[:, None, None]
    patches = features[0].new_zeros(())
    start = 0
    for feature in features:
        height, width = feature.shape[2:]
        local = cells - start
        on_level = (local >= 0) & (local < height * width)
        # Cells of other levels read this level too, spread so that the backward pass does not
        # accumulate into the same cell too often.
        local = local % (height * width)
        y = (local // width)[..., None] + neighbor // 3 - 1
        x = (local % width)[..., None] + neighbor % 3 - 1
        inside = on_level[..., None] & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        row = (image * height + y.clamp(0, height - 1)) * width + x.clamp(0, width - 1)
        pixels = feature.permute(0, 2, 3, 1).reshape(-1, feature.shape[1])
        gathered = pixels.index_select(0, row.flatten()).view(*row.shape, -1)
        patches = torch.where(inside[..., None], gathered, patches)
        start += height * width
    return patches.flatten(2)


def gather_from_levels(levels: Sequence[Tensor], indices: Tensor) -> Tensor:
    """Gather values of some anchors without concatenating the levels.

    The gradient of a concatenation would have to be split again.

    Args:
        levels: per level (B, A_l) or (B, A_l, N).
        indices: (B, S) int64 among the A anchors of all levels.

    Returns:
        (B, S) or (B, S, N).
    """
    gathered: Tensor | None = None
    start = 0
    for level in levels:
        size, is_vector = level.shape[1], level.ndim == 3
        local = indices - start
        on_level = (local >= 0) & (local < size)
        rows = local.clamp(0, size - 1)
        if is_vector:
            rows = rows[..., None].expand(-1, -1, level.shape[2])
            on_level = on_level[..., None]
        values = level.gather(1, rows)
        gathered = (
            values * on_level if gathered is None else torch.where(on_level, values, gathered)
        )
        start += size
    if gathered is None:
        raise ValueError("a pyramid needs at least one level")
    return gathered
