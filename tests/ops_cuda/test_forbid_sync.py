"""ForbidSync sees everything that makes the host wait for a GPU, and nothing else."""

import numpy as np
import pytest
import torch

import ops_cuda
from model.heads.count_on_host import CountOnHost
from model.structures.transfer import tensor_on
from tests.ops_cuda.forbid_sync import ForbidSync

X = torch.tensor([3, 0, 2])
MASK = X > 0
BOXES = torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5]])
SYNCS = {
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "array": lambda: np.asarray(X),
    "cpu": lambda: X.cpu(),
    "to cpu": lambda: X.to("cpu"),
    "item": lambda: X[0].item(),
    "bool": lambda: bool(X.any()),
    "if": lambda: 1 if X.sum() > 2 else 0,
    "int": lambda: int(X[0]),
    "float": lambda: float(X[0]),
    "index": lambda: range(X[0]),
    "slice": lambda: X[: X[2]],
    "format": lambda: f"{X[0]}",
    "iteration over values": lambda: [int(each) for each in X],
    "equal": lambda: X.equal(X + 1),
    "nonzero": lambda: X.nonzero(),
    "where": lambda: torch.where(MASK),
    "mask": lambda: X[MASK],
    "assignment by mask": lambda: X.clone().__setitem__(MASK, X[:2]),
    "masked_select": lambda: X.masked_select(MASK),
    "unique": lambda: X.unique(),
    "bincount": lambda: X.bincount(),
    "repeat_interleave": lambda: X.repeat_interleave(X),
    "tensor": lambda: torch.tensor([1.0], device=X.device),
    "as_tensor": lambda: torch.as_tensor([1.0], device=X.device),
    "new_tensor": lambda: X.new_tensor([1]),
    "nms": lambda: ops_cuda.nms(BOXES, BOXES[:, 0], 0.5),
}
FREE = {
    "iteration": lambda: [each + 1 for each in X],
    "sizes": lambda: (len(X), X.shape, X.numel()),
    "where": lambda: torch.where(MASK, X, 0),
    "index": lambda: X[X.clamp(max=1)],
    "scalar": lambda: X.clone().__setitem__(0, 5),
    "repeat_interleave": lambda: X.repeat_interleave(X, output_size=5),
    "repeated alike": lambda: X.repeat_interleave(2),
    "tensor_on": lambda: tensor_on(X.device, [1.0, 2.0], torch.float32),
    "count": lambda: CountOnHost(MASK).read(),
    "to": lambda: X.to(X.device, torch.float32),
}


@pytest.mark.parametrize("kind", SYNCS)
def test_a_sync_raises(kind):
    SYNCS[kind]()
    with ForbidSync(), pytest.raises(AssertionError, match="sync"):
        SYNCS[kind]()
    SYNCS[kind]()


@pytest.mark.parametrize("kind", FREE)
def test_what_does_not_sync_is_allowed(kind):
    with ForbidSync():
        FREE[kind]()
