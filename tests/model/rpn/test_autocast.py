"""Under autocast, every parameter has a gradient, also where only few anchors are sampled."""

from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from model import build_detector
from model.layers import convolution
from tests.model.training import total_loss

CAST = {F.linear, F.conv2d, torch.conv2d}


class OldAutocastCache(TorchFunctionMode):
    """Casts weights as autocast of torch <= 2.10 does.

    It keeps the cast of each parameter until the end of the outermost autocast context or until the
    cache is cleared, also one made under no_grad, through which no gradient flows.
    """

    def __init__(self):
        super().__init__()
        self.casts = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in CAST and torch.is_autocast_enabled("cpu"):
            args = tuple(map(self._cast, args))
        return function(*args, **(kwargs or {}))

    def _cast(self, argument):
        if not isinstance(argument, torch.nn.Parameter):
            return argument
        if id(argument) not in self.casts:
            self.casts[id(argument)] = argument.to(torch.bfloat16)
        return self.casts[id(argument)]


@pytest.fixture
def old_torch(monkeypatch):
    """A context in which autocast caches as torch <= 2.10 does."""

    @contextmanager
    def emulate():
        cache = OldAutocastCache()
        clear = torch.clear_autocast_cache
        # Not a function of tensors: a mode does not see it.
        with monkeypatch.context() as patch, cache:
            patch.setattr(torch, "clear_autocast_cache", lambda: (cache.casts.clear(), clear())[1])
            yield cache

    return emulate


@pytest.fixture(params=["plain", "other"])
def few_samples(tiny_config, monkeypatch, request):
    """A detector that scores the sampled anchors again, with gradients for those only.

    Plain convolutions cast detached weights under no_grad. Autocast casts those of other kinds,
    such as parametrized ones.
    """
    if request.param == "other":
        monkeypatch.setattr(convolution, "_is_plain", lambda conv: False)
    config = tiny_config()
    rpn = config.rpn.model_copy(update={"samples_per_image": 8})
    torch.manual_seed(0)
    return build_detector(config.model_copy(update={"rpn": rpn})).train()


def test_every_parameter_has_a_gradient_with_few_samples(
    few_samples, scenes, make_batch, old_torch
):
    with torch.autocast("cpu", dtype=torch.bfloat16), old_torch() as cache:
        terms = few_samples(make_batch(scenes), scenes)
    assert cache.casts
    total_loss(terms).backward()
    missing = [name for name, p in few_samples.named_parameters() if p.grad is None]
    assert not missing


def test_ddp_takes_a_second_step_with_few_samples(
    few_samples, scenes, make_batch, old_torch, tmp_path
):
    """DDP fails in the step after one in which a parameter had no gradient."""
    meeting = (tmp_path / "ranks").absolute().as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    try:
        ddp = DistributedDataParallel(few_samples)
        for _ in range(2):
            with torch.autocast("cpu", dtype=torch.bfloat16), old_torch():
                terms = ddp(make_batch(scenes), scenes)
            total_loss(terms).backward()
    finally:
        dist.destroy_process_group()
