"""An exponential moving average (EMA) of the weights in training."""

import copy

import torch
from torch import Tensor, nn

from model import Detector


class WeightAverage:
    """Keeps the average of a detector's weights, as a detector of its own.

    Averaged are the trained parameters and the statistics of batch norms; all else is equal. The
    decay is lower in the first updates, so that the initial weights are soon forgotten. torch's
    ``AveragedModel`` has neither: it averages frozen weights too, and either copies all buffers or
    averages also the counters among them.

    Args:
        trained: on its device and in its memory format.
        decay: weight of the old average in each update, below 1.
        updates: updates so far.

    Source: Polyak & Juditsky 1992; the decay of the first updates is that of TensorFlow's
    ExponentialMovingAverage.
    """

    def __init__(self, trained: Detector, decay: float, updates: int = 0) -> None:
        self.decay = decay
        self.updates = updates
        self.detector = copy.deepcopy(trained).requires_grad_(False).eval()
        self._trained = _changing_tensors(trained)
        averages = {**dict(self.detector.named_parameters()), **dict(self.detector.named_buffers())}
        self._averages = {name: averages[name] for name in self._trained}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights; called after each optimizer step."""
        decay = average_decay(self.decay, self.updates)
        self.updates += 1
        # In-place operations that raise the version of the tensors: weights folded from the old
        # average are computed anew (model/layers/weight_cache.py).
        names = [name for name, tensor in self._averages.items() if tensor.is_floating_point()]
        averages = [self._averages[name] for name in names]
        torch._foreach_lerp_(averages, [self._trained[name] for name in names], 1.0 - decay)
        for name in self._averages.keys() - names:  # counters
            self._averages[name].copy_(self._trained[name])

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the weights in training that differ from the average, by name."""
        return {name: tensor.detach() for name, tensor in self._trained.items()}


def average_decay(decay: float, updates: int) -> float:
    """Return the decay of an update: at most (1 + n) / (10 + n) after n updates."""
    return min(decay, (1 + updates) / (10 + updates))


def _changing_tensors(detector: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters and the buffers of batch norms, by name."""
    tensors: dict[str, Tensor] = {
        name: parameter
        for name, parameter in detector.named_parameters()
        if parameter.requires_grad
    }
    for prefix, module in detector.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            tensors |= {f"{prefix}.{name}": buffer for name, buffer in module.named_buffers()}
    return tensors
