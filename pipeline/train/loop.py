"""The training loop: forward, losses, backward, clip, step. Torch only; no cluster in sight.

It runs inside a Ray Train worker (``worker.py``), in a bare process, and on a machine that has
nothing but torch. What happens between the steps (logging, checkpoints, validation) is handed in.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.structures import ImageBatch, Targets
from pipeline.train.loss_normalization import NormalizedLosses, normalize_losses
from pipeline.train.non_finite import NonFiniteWatch
from pipeline.train.optimizer import set_learning_rate
from pipeline.train.precision import Precision
from pipeline.train.step_report import StepMeter, StepReport


class MicroBatch(Protocol):
    """What the loop reads of a batch."""

    @property
    def images(self) -> ImageBatch:
        """The images of one micro-batch."""

    @property
    def targets(self) -> Sequence[Targets]:
        """The objects of each image."""


@dataclass(frozen=True)
class LoopPlan:
    """How far to go, and how.

    Args:
        start_step: optimiser steps already taken.
        total_steps: optimiser steps of the whole run.
        images_per_step: images of one optimiser step, all workers together.
        accumulate: micro-batches per optimiser step.
        clip_norm: largest gradient norm; 0 does not clip.
        log_every: steps between reports.
    """

    start_step: int
    total_steps: int
    images_per_step: int
    accumulate: int = 1
    clip_norm: float = 0.0
    log_every: int = 20


@dataclass(frozen=True)
class LoopHooks:
    """What the loop calls between steps, on every worker alike.

    Args:
        log: receives each report.
        pauses_after: whether training pauses once this many steps are taken.
        pause: called then (validation, checkpoint); its time is not counted as training. Weights
            are known to be finite.
    """

    log: Callable[[StepReport], None] = lambda report: None
    pauses_after: Callable[[int], bool] = lambda step: False
    pause: Callable[[int], None] = lambda step: None


class TrainingLoop:
    """Trains ``model`` from ``plan.start_step`` to ``plan.total_steps``.

    With several micro-batches per step each is normalised by its own counts (over all workers) and
    the step takes their mean. That equals one large micro-batch wherever the counts of the
    micro-batches are equal, as they are for the sampled losses (256 anchors, 512 ROIs an image);
    the mask loss, counted per positive ROI, can differ slightly.

    Args:
        model: called as ``model(images, targets)`` in training mode; returns named LossTerms.
            Wrapped in DistributedDataParallel where there are several workers.
        optimizer: its groups carry ``lr_factor`` (``optimizer.parameter_groups``).
        rate_at: learning rate of a step.
        precision: autocast and gradient scaling.
        device: where the model lives; batches are moved there.
        plan: how far, and how.
        hooks: what happens between steps.
        clock: seconds from any origin.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rate_at: Callable[[int], float],
        precision: Precision,
        device: torch.device,
        plan: LoopPlan,
        hooks: LoopHooks | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.rate_at = rate_at
        self.precision = precision
        self.device = device
        self.plan = plan
        self.hooks = hooks or LoopHooks()
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._watch = NonFiniteWatch()
        self._meter = StepMeter(plan.total_steps, plan.images_per_step, clock)

    def run(self, batches: Iterator[MicroBatch]) -> None:
        """Take all remaining steps.

        Args:
            batches: this worker's micro-batches, ``plan.accumulate`` for each step, beginning with
                those of ``plan.start_step``.

        Raises:
            NonFiniteLossError: a loss or gradient was not finite; on every worker alike.
            RuntimeError: ``batches`` ended early.
        """
        self.model.train()
        for step in range(self.plan.start_step, self.plan.total_steps):
            rate = self.rate_at(step)
            set_learning_rate(self.optimizer, rate)
            norm = self._take_step(step, batches)

            taken = step + 1
            logs = taken % self.plan.log_every == 0 or taken == self.plan.total_steps
            pauses = self.hooks.pauses_after(taken)
            # Reading a verdict waits for the device: on a GPU only where we wait anyway.
            if self.device.type == "cpu" or logs or pauses:
                self._watch.raise_if_not_finite()
            if logs:
                self.hooks.log(self._meter.report(taken, rate, norm))
            if pauses:
                with self._meter.paused():
                    self.hooks.pause(taken)
                self.model.train()

    def _take_step(self, step: int, batches: Iterator[MicroBatch]) -> Tensor:
        """One optimiser step; returns the norm of its gradients, a scalar on the device."""
        self.optimizer.zero_grad(set_to_none=True)
        image_ids: tuple[int, ...] = ()
        micro_values = []
        for index in range(self.plan.accumulate):
            batch = self._next_batch(batches, step)
            losses = self._backward(batch, last=index == self.plan.accumulate - 1)
            ids = tuple(target.image_id for target in batch.targets)
            finite_everywhere = losses.values.isfinite().all()
            self._watch.observe(step, "loss", ids, losses.finite, finite_everywhere)
            micro_values.append(losses.values)
            image_ids += ids
        self._meter.add(losses.names, torch.stack(micro_values).mean(0))
        norm = self._update_weights()
        if not self.precision.skips_overflows:
            self._watch.observe(step, "gradient", image_ids, norm.isfinite(), norm.isfinite())
        return norm

    def _next_batch(self, batches: Iterator[MicroBatch], step: int) -> MicroBatch:
        with self._meter.waiting_for_data():
            batch = next(batches, None)
        if batch is None:
            raise RuntimeError(
                f"the data ended at step {step} of {self.plan.total_steps}; "
                "the stream must be opened for all steps of the run"
            )
        return batch

    def _backward(self, batch: MicroBatch, last: bool) -> NormalizedLosses:
        """Add the micro-batch's gradients; workers exchange them only on the ``last`` one."""
        images = self._move_images(batch.images)
        targets = tuple(target.to(self.device, non_blocking=True) for target in batch.targets)
        with self._exchange(last):
            with self.precision.autocast():
                terms = self.model(images, targets)
            losses = normalize_losses(terms)
            loss = losses.loss / self.plan.accumulate
            torch.autograd.backward(self.precision.scaler.scale(loss))
        return losses

    def _move_images(self, images: ImageBatch) -> ImageBatch:
        if self.device.type == "cuda" and not images.pixels.is_cuda:
            # Only pinned memory is copied while the device goes on computing.
            images = replace(images, pixels=images.pixels.pin_memory())
        return images.to(self.device, non_blocking=True)

    def _exchange(self, last: bool) -> AbstractContextManager[object]:
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _update_weights(self) -> Tensor:
        """Clip and step; returns the gradients' norm before clipping, a scalar on the device."""
        scaler = self.precision.scaler
        scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.plan.clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.plan.clip_norm, norm)
        scaler.step(self.optimizer)
        scaler.update()
        return norm
