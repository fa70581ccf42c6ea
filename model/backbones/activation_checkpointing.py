"""Activation checkpointing: recompute maps in the backward pass instead of keeping them all.

Source: Chen et al. 2016, "Training deep nets with sublinear memory cost".
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

# The input of every third block is kept, and three blocks are computed again at a time: for the
# stages of a ResNet, about the square root of their length, which needs the least memory.
BLOCKS_PER_SEGMENT = 3


def checkpoint_blocks(blocks: nn.Sequential, x: Tensor) -> Tensor:
    """Return ``blocks(x)``; for the backward pass few maps are kept, and the rest computed again.

    Losses, gradients and norm statistics are the same bit for bit.

    Args:
        blocks: without random numbers.
        x: (B, C, H, W).
    """
    for first in range(0, len(blocks), BLOCKS_PER_SEGMENT):
        x = checkpoint_segment(blocks[first : first + BLOCKS_PER_SEGMENT], x)
    return x


def checkpoint_segment(segment: nn.Module, x: Tensor) -> Tensor:
    """Return ``segment(x)``, of which only ``x`` is kept for the backward pass."""

    def contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        return nullcontext(), _statistics_kept(segment)

    # The state of the random number generators is not saved, which would stop a GPU.
    result: Tensor = checkpoint(
        segment, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
    )
    return result


@contextmanager
def _statistics_kept(segment: nn.Module) -> Iterator[None]:
    """Let batch norms update copies of their statistics, not the statistics a second time."""
    norms = [m for m in segment.modules() if isinstance(m, _BatchNorm) and m.training]
    kept = [dict(norm.named_buffers()) for norm in norms]
    _set_buffers(norms, [{name: b.clone() for name, b in buffers.items()} for buffers in kept])
    try:
        yield
    finally:
        _set_buffers(norms, kept)


def _set_buffers(norms: Sequence[nn.Module], buffers: Sequence[Mapping[str, Tensor]]) -> None:
    for norm, of_norm in zip(norms, buffers, strict=True):
        for name, buffer in of_norm.items():
            setattr(norm, name, buffer)
