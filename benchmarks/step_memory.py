"""Peak memory of a training step on a GPU, computed on a machine without one.

    python -m benchmarks.step_memory --batch 16 --canvas 800 1344

The step of the training loop runs on fake tensors, which have shapes but no values, in the way it
runs on a GPU. What is not seen: rounding and fragmentation of torch's allocator, workspaces of
cuDNN, and memory inside operators. Of ours, the gradient of ROI align has the largest: float32 maps
of all levels, when the features are half types; they are computed from the shapes.
"""

import argparse
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.machine import print_table, save
from model import ModelConfig, build_detector
from model.heads import box as box_head
from model.heads import roi_heads
from model.layers import convolution
from model.structures import (
    BatchTargets,
    ImageBatch,
    ImageSize,
    PolygonMasks,
    Targets,
    join_targets,
)
from ops_cuda import add_bias_relu, backend, roi_align
from pipeline.config import OptimizerConfig, load_config
from pipeline.train.loop import LoopPlan, TrainingLoop
from pipeline.train.optimizer import build_optimizer
from pipeline.train.precision import Precision

CPU = torch.device("cpu")
VERTICES = 30  # of an object's outline
CATEGORIES = ("weights", "momentum", "gradients", "images", "forward", "backward")
"""``forward``: maps and temporary tensors made in the forward pass; ``backward``: likewise."""
ALIGNMENT = 512  # bytes, to which torch's allocator rounds


@dataclass(frozen=True)
class StepShape:
    """The sizes that decide on the memory of a step.

    Args:
        batch: number of images.
        canvas: size of the padded images.
        objects: objects per image.
        positives: ROIs of the whole batch that match an object, for which masks are predicted.
    """

    batch: int
    canvas: ImageSize
    objects: int
    positives: int


@dataclass(frozen=True)
class Batch:
    """A batch as the loop reads it."""

    images: ImageBatch
    targets: BatchTargets


class MemoryTrace(TorchDispatchMode):
    """Adds up the memory of all living tensors that operators return, by category."""

    def __init__(self) -> None:
        super().__init__()
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._category: dict[int, str] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        in_backward = torch._C._current_graph_task_id() != -1
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self.add(each, "backward" if in_backward else "forward", known_again=False)
        return result

    def add(self, tensor: Tensor, category: str, known_again: bool = True) -> None:
        """Count a tensor until it is freed.

        Args:
            tensor: views count once.
            category: one of ``CATEGORIES``.
            known_again: whether to move a tensor that is counted already.
        """
        storage = tensor.untyped_storage()
        size = -(-storage.nbytes() // ALIGNMENT) * ALIGNMENT
        before = self._category.get(id(storage))
        if before is None:
            weakref.finalize(storage, self._free, id(storage), size)
        elif known_again:
            self.now[before] -= size
        else:
            return
        self._category[id(storage)] = category
        self.now[category] += size
        if self.now.total() > self.peak.total():
            self.peak = self.now.copy()

    def _free(self, storage: int, size: int) -> None:
        self.now[self._category.pop(storage)] -= size


def trace_step(config: ModelConfig, shape: StepShape, precision: str) -> Counter[str]:
    """Return the bytes in use at the peak of two steps, by category.

    Args:
        config: of the detector.
        shape: sizes of the step.
        precision: fp32 or bf16.
    """
    detector = build_detector(config).train()
    fake = FakeTensorMode()
    with fake, _as_on_a_gpu(shape.positives):
        _make_fake(detector, fake)
        loop = TrainingLoop(
            model=detector,
            optimizer=build_optimizer(detector, OptimizerConfig(clip_norm=1.0)),
            lr_schedule=lambda step: 0.01,
            precision=Precision(precision, CPU),
            device=CPU,
            plan=LoopPlan(0, sys.maxsize, shape.batch, clip_norm=1.0, log_every=sys.maxsize),
        )
        loop._syncs_are_free = False
        batch = _make_batch(config, shape)
        trace = MemoryTrace()
        _count_persistent(trace, detector, loop.optimizer, batch)
        with trace:
            for step in range(2):
                loop.train_step(step, iter([batch]))
    return trace.peak


def _count_persistent(
    trace: MemoryTrace, detector: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch
) -> None:
    for tensor in (*detector.parameters(), *detector.buffers()):
        trace.add(tensor, "weights")
    for state in optimizer.state.values():
        for value in state.values():
            trace.add(value, "momentum")
    trace.add(batch.images.pixels, "images")
    for parameter in detector.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: trace.add(p.grad, "gradients"))


def roi_align_sums(config: ModelConfig, shape: StepShape) -> int:
    """Return the bytes of the float32 maps to which the gradient of one ROI align adds."""
    cells = sum(
        -(-shape.canvas.height // stride) * -(-shape.canvas.width // stride)
        for stride in (4, 8, 16, 32)
    )
    return 4 * shape.batch * config.fpn.channels * cells


@contextmanager
def _as_on_a_gpu(positives: int) -> Iterator[None]:
    """Take the way of a GPU where the network has one of its own, and read no values."""

    class KnownCount:
        def __init__(self, flags: Tensor) -> None: ...

        def read(self) -> int:
            return positives

    with ExitStack() as patches:
        for module, name in (
            (convolution, "infers_on_cpu"),
            (convolution, "_adds_bias_for_free"),
            (box_head, "infers_on_cpu"),
            (roi_heads, "_syncs_are_free"),
            (add_bias_relu, "lacks_type"),
            (roi_align, "lacks_type"),
        ):
            patches.enter_context(mock.patch.object(module, name, lambda _: False))
        patches.enter_context(mock.patch.object(roi_heads, "CountOnHost", KnownCount))
        yield


def _make_fake(detector: nn.Module, fake: FakeTensorMode) -> None:
    for module in detector.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                data = fake.from_tensor(parameter).detach().clone()
                module._parameters[name] = nn.Parameter(data, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake.from_tensor(buffer).clone()


def _make_batch(config: ModelConfig, shape: StepShape) -> Batch:
    count = shape.objects
    offsets = torch.zeros(count + 1, dtype=torch.int64)
    keypoints = None if config.keypoint is None else len(config.keypoint.names)
    targets = Targets(
        torch.zeros(count, 4),
        torch.zeros(count, dtype=torch.int64),
        PolygonMasks(torch.zeros(VERTICES * count, 2), offsets, offsets),
        None if keypoints is None else torch.zeros(count, keypoints, 3),
    )
    joined = join_targets(
        [targets] * shape.batch, CPU, config.mask is not None, num_keypoints=keypoints or 0
    )
    sizes = (shape.canvas,) * shape.batch
    pixels = torch.zeros(shape.batch, 3, *shape.canvas, dtype=torch.uint8)
    return Batch(ImageBatch(pixels, sizes, sizes, tuple(range(shape.batch))), joined)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/mask_rcnn_r50_fpn_1x.yaml")
    parser.add_argument("--batch", type=int, default=16, help="images per step")
    parser.add_argument("--canvas", type=int, nargs=2, default=(800, 1344), help="height and width")
    parser.add_argument("--objects", type=int, default=7, help="per image")
    parser.add_argument("--positives", type=int, default=50, help="positive ROIs per image")
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16"), default=("bf16", "fp32")
    )
    parser.add_argument("--out", type=Path, help="JSON file for the rows and the machine")
    options = parser.parse_args()
    if not backend().startswith("compiled"):
        raise SystemExit(f"the operators must be compiled; got {backend()}")
    config = load_config(options.config).model
    shape = StepShape(
        options.batch,
        ImageSize(*options.canvas),
        options.objects,
        options.batch * options.positives,
    )
    rows = []
    for precision in options.precisions:
        peak = trace_step(config, shape, precision)
        mib = {f"{name}_mib": peak[name] / 2**20 for name in CATEGORIES}
        hidden = 0 if precision == "fp32" else roi_align_sums(config, shape)
        rows.append(
            {
                "precision": precision,
                "total_mib": peak.total() / 2**20,
                **mib,
                "roi_align_sums_mib": hidden / 2**20,
            }
        )
    print_table(rows)
    if options.out:
        save(rows, options.out)


if __name__ == "__main__":
    main()
