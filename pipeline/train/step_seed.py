"""Seed what a network draws in a step, such as the masks of dropout.

Without it all workers would draw the same masks, because they start with the same seed so as to
build the same weights. As in the stream, the numbers are a function of what they are for: they
depend neither on when a training was interrupted nor on what a validation has drawn.
"""

import torch

from pipeline.stream.random_numbers import Purpose, random_bits


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators, of the CPU and all GPUs in use, for one step of one worker.

    Args:
        seed: seed of the run.
        step: optimizer steps already taken.
        rank: rank of the worker.
    """
    bits = int(random_bits(seed, step, [rank], Purpose.NETWORK, draws=1)[0, 0])
    # Not torch.manual_seed: it takes 0.2 ms, to prepare devices that are not in use.
    torch.default_generator.manual_seed(bits)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(bits)
