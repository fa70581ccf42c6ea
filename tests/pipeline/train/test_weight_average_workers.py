"""Averaged weights are equal on all workers; light on imports, which each process repeats."""

import copy

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.train.distributed import average_norm_statistics
from pipeline.train.weight_average import WeightAverage
from tests.two_ranks import run_two_ranks


def one_of_two_workers(rank, folder):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    average = WeightAverage(model, 0.9)
    distributed = DistributedDataParallel(model, broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True)
    optimizer.register_step_post_hook(lambda *_: average.update())
    torch.manual_seed(1 + rank)  # other images on each worker
    for _ in range(3):
        optimizer.zero_grad()
        distributed(torch.rand(2, 3, 4, 4)).square().mean().backward()
        optimizer.step()
    before = copy.deepcopy(average.detector.state_dict())
    average_norm_statistics(average.detector)
    torch.save((before, average.detector.state_dict()), folder / f"{rank}.pt")


def test_all_workers_have_the_same_average(tmp_path):
    run_two_ranks(one_of_two_workers, tmp_path)
    (before, after), (other_before, other_after) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)
    )
    for name, tensor in after.items():
        assert torch.equal(tensor, other_after[name]), name
    # Each worker gathers statistics from its own images until they are averaged.
    mean, other_mean = before["1.running_mean"], other_before["1.running_mean"]
    assert not torch.equal(mean, other_mean)
    assert torch.allclose(after["1.running_mean"], (mean + other_mean) / 2)
