"""The surroundings of a few cells of a pyramid, for layers that need judge no others.

Shapes: B images, C channels, H W cells of a level, S sampled cells of an image.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

NEIGHBOURS = 9  # of a 3x3 convolution, the cell itself among them


def patches_save_work(features: Sequence[Tensor], samples: int) -> bool:
    """Whether the patches of ``samples`` cells per image are less than the pyramid itself."""
    return NEIGHBOURS * samples < sum(feature.shape[2] * feature.shape[3] for feature in features)


def gather_patches(features: Sequence[Tensor], cells: Tensor) -> Tensor:
    """The 3x3 surroundings of chosen cells; zeros beyond a level's border.

    Args:
        features: per level (B, C, H_l, W_l); channels_last is the fast layout.
        cells: (B, S) int64, among the cells of all levels, row by row, finest first.

    Returns:
        (B, S, 9 * C): the neighbours row by row, each with all channels. Gradients flow to the
        features.
    """
    neighbour = torch.arange(NEIGHBOURS, device=cells.device)
    image = torch.arange(len(cells), device=cells.device)[:, None, None]
    patches = features[0].new_zeros(())
    start = 0
    for feature in features:
        height, width = feature.shape[2:]
        local = cells - start
        is_here = (local >= 0) & (local < height * width)
        # Cells of other levels read something too, spread so that no place is written too often.
        local = local % (height * width)
        y = (local // width)[..., None] + neighbour // 3 - 1
        x = (local % width)[..., None] + neighbour % 3 - 1
        inside = is_here[..., None] & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        place = (image * height + y.clamp(0, height - 1)) * width + x.clamp(0, width - 1)
        pixels = feature.permute(0, 2, 3, 1).reshape(-1, feature.shape[1])
        found = pixels.index_select(0, place.flatten()).view(*place.shape, -1)
        patches = torch.where(inside[..., None], found, patches)
        start += height * width
    return patches.flatten(2)
