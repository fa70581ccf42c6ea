"""Anchors: the boxes that the network's boxes start from, tiled over every level of feature maps.

Shapes: L levels, S sizes and R ratios of a level, A = R * S anchors per cell, H W cells of a level.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.boxes.convention import anchors_from_stride
from model.structures import ImageSize

# A batch's anchors are some MB, and few shapes of batches are met again and again.
MOST_GRIDS_REMEMBERED = 8


class AnchorGrid(nn.Module):
    """Every size of a level in every ratio at each cell; cell (0, 0) is centred on pixel 0.

    The anchors of a cell are ordered by ratio, those of one ratio by size: (r0, s0), (r0, s1) ..
    (r1, s0). So do maskrcnn-benchmark and torchvision; detectron2 orders by size first.

    Detectron's, ``from_stride``, are centred on half a stride.

    Args:
        sizes: square root of the anchors' area, pixels: of each level one, or S.
        ratios: height over width.
        strides: pixels between neighbouring cells of each level.
        rounded: round the anchors around the origin to whole pixels (torchvision).
        stride_from_canvas: take canvas // cells as the stride instead (torchvision).
        from_stride: anchors of :func:`model.boxes.convention.anchors_from_stride`.

    Source: Ren et al. 2015, section 3.1.1; Lin et al. 2017, section 4.1.
    """

    around_origin: Tensor

    def __init__(
        self,
        sizes: Sequence[float] | Sequence[Sequence[float]],
        ratios: Sequence[float],
        strides: Sequence[int],
        rounded: bool = False,
        stride_from_canvas: bool = False,
        from_stride: bool = False,
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self._remembered: OrderedDict[tuple[object, ...], tuple[Tensor, ...]] = OrderedDict()
        self.stride_from_canvas = stride_from_canvas
        per_level = [size if isinstance(size, Sequence) else (size,) for size in sizes]
        if from_stride:
            levels = zip(per_level, self.strides, strict=True)
            boxes = torch.stack(
                [anchors_from_stride(own, ratios, stride) for own, stride in levels]
            )
        else:
            boxes = _anchors_around_origin(torch.tensor(per_level), torch.tensor(ratios))
        self.register_buffer("around_origin", boxes.round() if rounded else boxes, persistent=False)

    @property
    def per_cell(self) -> int:
        """Anchors per cell."""
        return self.around_origin.shape[1]

    def forward(self, cells: Sequence[ImageSize], canvas: ImageSize) -> tuple[Tensor, ...]:
        """The anchors of every level.

        Args:
            cells: height and width of each level's feature map, finest first.
            canvas: height and width of the padded batch, pixels.

        Returns:
            Per level (H * W * A, 4) float32, row by row, the anchors of a cell together; shared
            between calls, not to be changed.
        """
        place = self.around_origin
        key = (*cells, canvas, place.device, place.dtype)
        grid = self._remembered.pop(key, None)
        if grid is None:
            # Not of inference mode: a later training step may meet the same shapes.
            with torch.inference_mode(False), torch.no_grad():
                grid = self.tile(cells, canvas)
            if place.is_cuda and torch.cuda.is_current_stream_capturing():
                return grid  # memory of the CUDA graph, without values until it is replayed
        self._remembered[key] = grid
        if len(self._remembered) > MOST_GRIDS_REMEMBERED:
            self._remembered.popitem(last=False)
        return grid

    def tile(self, cells: Sequence[ImageSize], canvas: ImageSize) -> tuple[Tensor, ...]:
        """As :meth:`forward`, but computed anew and not remembered."""
        return tuple(
            self._tile(level, size, self._stride(level, size, canvas))
            for level, size in enumerate(cells)
        )

    def _stride(self, level: int, size: ImageSize, canvas: ImageSize) -> tuple[int, int]:
        if self.stride_from_canvas:
            return canvas.height // size.height, canvas.width // size.width
        return self.strides[level], self.strides[level]

    def _tile(self, level: int, size: ImageSize, stride: tuple[int, int]) -> Tensor:
        device = self.around_origin.device
        y = torch.arange(size.height, device=device, dtype=torch.float32) * stride[0]
        x = torch.arange(size.width, device=device, dtype=torch.float32) * stride[1]
        y, x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack((x, y, x, y), dim=-1)[:, :, None]  # (H, W, 1, 4)
        return (centres + self.around_origin[level]).reshape(-1, 4)


def _anchors_around_origin(sizes: Tensor, ratios: Tensor) -> Tensor:
    """One cell's anchors, (L, R * S, 4), of sizes (L, S) and ratios (R,)."""
    heights = ratios.sqrt()
    shape = torch.stack((1 / heights, heights), dim=1)  # (R, 2) width and height of size 1
    half = shape[:, None] * sizes[:, None, :, None] / 2  # (L, R, S, 2)
    return torch.cat((-half, half), dim=3).flatten(1, 2)
