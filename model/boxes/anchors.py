"""Anchor boxes, tiled over every level of the feature maps.

Shapes as in ``model.structures``; here N_s sizes and N_r ratios of a level give N_r * N_s anchors
per cell.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.structures import ImageSize

# The anchors of one batch are a few MB, and the same few batch shapes recur.
MAX_CACHED_GRIDS = 8


class AnchorGrid(nn.Module):
    """Anchors of every size and ratio at each cell; those of cell (0, 0) are centered on (0, 0).

    The anchors of a cell are ordered by ratio, those of a ratio by size: (r0, s0), (r0, s1), ..,
    (r1, s0). maskrcnn-benchmark and torchvision use the same order; detectron2 orders by size
    first.

    Args:
        sizes: anchor sizes of each level: square roots of the anchor area, pixels.
        ratios: height over width.
        strides: pixels between neighboring cells of each level.
        rounded: round the anchors of cell (0, 0) to whole pixels (torchvision).
        stride_from_canvas: use canvas // cells as the stride instead (torchvision).
        detectron: use :func:`detectron_anchors`, centered on half a stride.

    Source: Ren et al. 2015, section 3.1.1; Lin et al. 2017, section 4.1.
    """

    cell_anchors: Tensor

    def __init__(
        self,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[float],
        strides: Sequence[int],
        rounded: bool = False,
        stride_from_canvas: bool = False,
        detectron: bool = False,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.stride_from_canvas = stride_from_canvas
        self._cache: OrderedDict[tuple[object, ...], tuple[Tensor, ...]] = OrderedDict()
        if detectron:
            levels = zip(sizes, self.strides, strict=True)
            boxes = torch.stack(
                [detectron_anchors(size, ratios, stride) for size, stride in levels]
            )
        else:
            boxes = _centered_anchors(torch.tensor(sizes), torch.tensor(ratios))
        self.register_buffer("cell_anchors", boxes.round() if rounded else boxes, persistent=False)

    @property
    def per_cell(self) -> int:
        """Anchors per cell."""
        return self.cell_anchors.shape[1]

    def forward(self, features: Sequence[Tensor], canvas: ImageSize) -> tuple[Tensor, ...]:
        """Return the anchors of every level.

        Args:
            features: per level (B, C, H_l, W_l), finest first; only their sizes are used.
            canvas: height and width of the padded batch, pixels.

        Returns:
            Per level (A_l, 4) float32, row by row, the anchors of a cell together. The tensors are
            shared between calls and must not be modified.
        """
        cells = [ImageSize(*feature.shape[-2:]) for feature in features]
        if torch.compiler.is_exporting():
            return self.tile(cells, canvas)  # sizes are symbols of one trace: nothing to cache
        anchors = self.cell_anchors
        key = (*cells, canvas, anchors.device, anchors.dtype)
        grid = self._cache.pop(key, None)
        if grid is None:
            # Not created in inference mode, because a later training step may hit the cache.
            with torch.inference_mode(False), torch.no_grad():
                grid = self.tile(cells, canvas)
            if anchors.is_cuda and torch.cuda.is_current_stream_capturing():
                return grid  # belongs to the CUDA graph and has no values until it is replayed
        self._cache[key] = grid
        if len(self._cache) > MAX_CACHED_GRIDS:
            self._cache.popitem(last=False)
        return grid

    def tile(self, cells: Sequence[ImageSize], canvas: ImageSize) -> tuple[Tensor, ...]:
        """Return what :meth:`forward` returns for maps of these sizes, without using the cache."""
        return tuple(
            self._tile_level(level, size, self._stride(level, size, canvas))
            for level, size in enumerate(cells)
        )

    def _stride(self, level: int, size: ImageSize, canvas: ImageSize) -> tuple[int, int]:
        if self.stride_from_canvas:
            return canvas.height // size.height, canvas.width // size.width
        return self.strides[level], self.strides[level]

    def _tile_level(self, level: int, size: ImageSize, stride: tuple[int, int]) -> Tensor:
        device = self.cell_anchors.device
        y = torch.arange(size.height, device=device, dtype=torch.float32) * stride[0]
        x = torch.arange(size.width, device=device, dtype=torch.float32) * stride[1]
        y, x = torch.meshgrid(y, x, indexing="ij")
        centers = torch.stack((x, y, x, y), dim=-1)[:, :, None]  # (H, W, 1, 4)
        return (centers + self.cell_anchors[level]).reshape(-1, 4)


def detectron_anchors(sizes: Sequence[float], ratios: Sequence[float], stride: int) -> Tensor:
    """Return Detectron's anchors of cell (0, 0): a stride-sized square, reshaped, rounded, scaled.

    Args:
        sizes: approximate square root of the anchor area, pixels.
        ratios: height over width.
        stride: pixels between cells.

    Returns:
        (N_r * N_s, 4) float32, the sizes of a ratio together, centered on stride / 2. In Detectron,
        where pixel centers are whole numbers, that is (stride - 1) / 2.
    """
    heights_per_width = torch.tensor(ratios, dtype=torch.float64)
    widths = (stride**2 / heights_per_width).sqrt().round()  # half to even, as numpy rounds
    sides = torch.stack((widths, (widths * heights_per_width).round()), dim=1)
    scales = torch.tensor(sizes, dtype=torch.float64) / stride
    half = 0.5 * (sides[:, None] * scales[:, None]).flatten(0, 1)
    return torch.cat((stride / 2 - half, stride / 2 + half), dim=1).float()


def _centered_anchors(sizes: Tensor, ratios: Tensor) -> Tensor:
    """Return anchors around the origin, (L, N_r * N_s, 4): sizes (L, N_s), ratios (N_r,)."""
    heights = ratios.sqrt()
    shape = torch.stack((1 / heights, heights), dim=1)  # (N_r, 2): width and height at size 1
    half = shape[:, None] * sizes[:, None, :, None] / 2  # (L, N_r, N_s, 2)
    return torch.cat((-half, half), dim=3).flatten(1, 2)
