"""Boxes as regression targets: shift and log scale relative to a reference box.

Source: Girshick et al. 2014, appendix C, with the weights and the clamp of Detectron.
"""

import math

import torch
from torch import Tensor, nn

# Limits the growth of a box: from 16 to 1000 pixels (Detectron).
MAX_LOG_SCALE = math.log(1000.0 / 16)


class BoxCoder(nn.Module):
    """Encode boxes as weighted dx, dy, dw, dh relative to reference boxes, and decode them."""

    weights: Tensor

    def __init__(self, weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(weights), persistent=False)

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Return the deltas that turn ``references`` into ``boxes``.

        Args:
            boxes: (..., 4) float32, pixels, with positive sides.
            references: (..., 4) float32, pixels, with positive sides.

        Returns:
            (..., 4) float32: dx, dy, dw, dh times the weights.
        """
        centers, sides = _centers_and_sides(boxes)
        reference_centers, reference_sides = _centers_and_sides(references)
        shift = (centers - reference_centers) / reference_sides
        scale = torch.log(sides / reference_sides)
        return torch.cat((shift, scale), dim=-1) * self.weights

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """Apply ``deltas`` to ``references``; the inverse of :meth:`encode`.

        Args:
            deltas: (..., 4), any float type.
            references: (..., 4) float32, pixels.

        Returns:
            (..., 4) float32, pixels, not clipped.
        """
        # fp32: half precision under autocast would round coordinates to whole pixels.
        deltas = deltas.float() / self.weights
        reference_centers, reference_sides = _centers_and_sides(references)
        centers = deltas[..., :2] * reference_sides + reference_centers
        half_sides = 0.5 * deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * reference_sides
        return torch.cat((centers - half_sides, centers + half_sides), dim=-1)


def _centers_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * sides, sides
