"""The training loop, with torch only.

It runs inside a Ray Train worker (``worker.py``), in a plain process, and on a machine with nothing
but torch. What happens between steps (logging, checkpoints, validation) is passed in as hooks.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from model.structures import BatchTargets, ImageBatch, Targets
from pipeline.train.loss_normalization import normalize_losses
from pipeline.train.non_finite import (
    NonFiniteLossError,
    NonFiniteWatch,
    SkippedSteps,
    step_if_finite,
)
from pipeline.train.norm_statistics import NormStatistics
from pipeline.train.optimizer import set_learning_rate
from pipeline.train.precision import Precision
from pipeline.train.stall_watch import Activity
from pipeline.train.step_report import StepMeter, StepReport
from pipeline.train.step_seed import seed_step


class MicroBatch(Protocol):
    """The attributes of a batch that the loop reads."""

    @property
    def images(self) -> ImageBatch:
        """The images of one micro-batch."""

    @property
    def targets(self) -> Sequence[Targets] | BatchTargets:
        """The objects of each image, or of the micro-batch."""


@dataclass(frozen=True)
class LoopPlan:
    """Length of the run and settings of a step.

    Args:
        start_step: optimizer steps already taken.
        total_steps: optimizer steps of the whole run.
        images_per_step: images of one optimizer step, all workers together.
        accumulate: micro-batches per optimizer step.
        clip_norm: maximum gradient norm; 0 does not clip.
        log_every: steps between reports.
        max_skipped_steps: steps in a row that are skipped because their gradients are not finite;
            0 stops at the first such loss or gradient.
        seed: seed of the run, from which torch's random numbers in each step follow, such as those
            of dropout (`seed_step`); None leaves torch's generators alone.
        rank: of this worker.
    """

    start_step: int
    total_steps: int
    images_per_step: int
    accumulate: int = 1
    clip_norm: float = 0.0
    log_every: int = 20
    max_skipped_steps: int = 0
    seed: int | None = None
    rank: int = 0


@dataclass(frozen=True)
class LoopHooks:
    """What the loop calls between steps, on every worker.

    Args:
        log: receives each report.
        pauses_after: whether training pauses after this number of steps.
        pause: called in each pause (validation, checkpoint) with the number of steps taken, when
            the weights are known to be finite. Its time does not count as training.
        ends_after: whether the run ends early after this number of steps; asked after the pause.
        skipped: receives the error of each step that was skipped because it was not finite; see
            ``LoopPlan.max_skipped_steps``.
        activity: receives what the loop begins to do, and the number of steps taken.
    """

    log: Callable[[StepReport], None] = lambda report: None
    pauses_after: Callable[[int], bool] = lambda step: False
    pause: Callable[[int], None] = lambda step: None
    ends_after: Callable[[int], bool] = lambda step: False
    skipped: Callable[[NonFiniteLossError], None] = lambda error: None
    activity: Callable[[Activity, int], None] = lambda activity, step: None


class TrainingLoop:
    """Trains ``model`` from ``plan.start_step`` to ``plan.total_steps``.

    With several micro-batches per step, each is normalized by its own counts (over all workers) and
    the step takes their mean. That equals one large micro-batch if the counts of the micro-batches
    are equal, as they are for the sampled losses (256 anchors, 512 ROIs per image); the mask loss,
    counted per positive ROI, can differ slightly.

    Args:
        model: called as ``model(images, targets)`` in training mode; returns LossTerms by name.
            Wrapped in DistributedDataParallel if there are several workers.
        optimizer: its groups carry ``lr_factor`` (``optimizer.parameter_groups``).
        lr_schedule: learning rate of each step.
        precision: autocast and gradient scaling.
        device: device of the model; batches are moved there.
        plan: length of the run and settings of a step.
        hooks: what happens between steps.
        clock: returns seconds from any origin.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_schedule: Callable[[int], float],
        precision: Precision,
        device: torch.device,
        plan: LoopPlan,
        hooks: LoopHooks | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.lr_schedule = lr_schedule
        self.precision = precision
        self.device = device
        self.plan = plan
        self.hooks = hooks or LoopHooks()
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._watch = NonFiniteWatch()
        self._skipped = SkippedSteps(plan.max_skipped_steps, precision.skips_overflows)
        may_skip = plan.max_skipped_steps > 0 or precision.skips_overflows
        self._norms = NormStatistics(model) if may_skip else None
        # On a GPU, reading a value would stop the host until all earlier work is done.
        self._syncs_are_free = device.type == "cpu"
        self._meter = StepMeter(plan.total_steps, plan.images_per_step, clock)

    def run(self, batches: Iterator[MicroBatch]) -> int:
        """Take all remaining steps, or fewer if ``hooks.ends_after`` says so.

        Args:
            batches: this worker's micro-batches, ``plan.accumulate`` per step, starting with those
                of ``plan.start_step``.

        Returns:
            The number of steps taken in total.

        Raises:
            NonFiniteLossError: a loss or gradient was not finite, in fp16 for many steps in a row;
                raised on every worker.
            RuntimeError: ``batches`` ended early.
        """
        self.model.train()
        for step in range(self.plan.start_step, self.plan.total_steps):
            self.train_step(step, batches)
            if self.hooks.ends_after(step + 1):
                return step + 1
        return self.plan.total_steps

    def train_step(self, step: int, batches: Iterator[MicroBatch]) -> None:
        """Take one optimizer step, then log and pause if they are due.

        Args:
            step: steps already taken.
            batches: this worker's micro-batches, from those of ``step`` on.

        Raises:
            NonFiniteLossError: a loss or gradient was not finite; raised on every worker.
            RuntimeError: ``batches`` ended early.
        """
        plan, scaler = self.plan, self.precision.scaler
        if plan.seed is not None:
            seed_step(plan.seed, step, plan.rank)
        lr = self.lr_schedule(step)
        set_learning_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)

        if self._norms is not None:
            self._norms.keep()

        # Forward and backward, micro-batch by micro-batch; their gradients add up.
        micro_losses = []
        step_image_ids: tuple[int, ...] = ()
        for micro_step in range(plan.accumulate):
            self.hooks.activity("waiting for data", step)
            with self._meter.waiting_for_data():
                batch = next(batches, None)
            self.hooks.activity("computing", step)
            if batch is None:
                raise RuntimeError(
                    f"the data ended at step {step} of {plan.total_steps}; "
                    "open the stream for all steps of the run"
                )
            images, targets, image_ids = _on_device(batch, self.device)

            # Workers exchange gradients only in the last backward pass of a step.
            gradient_sync: AbstractContextManager[object] = nullcontext()
            if micro_step < plan.accumulate - 1 and isinstance(self.model, DistributedDataParallel):
                gradient_sync = self.model.no_sync()
            with gradient_sync:
                with self.precision.autocast():
                    terms = self.model(images, targets)
                losses = normalize_losses(terms)
                torch.autograd.backward(scaler.scale(losses.loss / plan.accumulate))

            all_finite = losses.values.isfinite().all()
            self._watch.observe(step, "loss", image_ids, losses.finite, all_finite)
            micro_losses.append(losses.values)
            step_image_ids += image_ids
        self._meter.add(losses.names, torch.stack(micro_losses).mean(0))

        # Clip and step. The norm is a scalar on the device, before clipping.
        scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if plan.clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, plan.clip_norm, norm)
        finite = norm.isfinite()
        if self._norms is not None:
            # Before the step, which also updates an average of the weights and statistics.
            self._norms.restore_unless(finite)
            self._skipped.observe(finite)
        if self.precision.skips_overflows or not plan.max_skipped_steps:
            scaler.step(self.optimizer)
            scaler.update()
        else:
            step_if_finite(self.optimizer, finite)
        if not self.precision.skips_overflows:
            self._watch.observe(step, "gradient", step_image_ids, finite, finite)

        steps_taken = step + 1
        should_log = steps_taken % plan.log_every == 0 or steps_taken == plan.total_steps
        should_pause = self.hooks.pauses_after(steps_taken)
        if self._syncs_are_free or should_log or should_pause:
            self._check_finite(step)
        if should_log:
            self.hooks.log(self._meter.report(steps_taken, lr, norm))
        if should_pause:
            self.hooks.activity("paused", steps_taken)
            with self._meter.paused():
                self.hooks.pause(steps_taken)
            self.model.train()

    def _check_finite(self, step: int) -> None:
        """Read what was observed up to ``step``; waits for the device."""
        errors = self._watch.errors()
        if errors and not self.plan.max_skipped_steps:
            raise errors[0]
        for error in errors:
            self.hooks.skipped(error)
        self._skipped.raise_if_too_many(step)


def _on_device(
    batch: MicroBatch, device: torch.device
) -> tuple[ImageBatch, Sequence[Targets] | BatchTargets, tuple[int, ...]]:
    """Return images and targets on the device, and the ids of the images."""
    images, targets = batch.images, batch.targets
    if device.type == "cuda" and not images.pixels.is_cuda:
        # Only copies from pinned memory overlap with computation.
        images = replace(images, pixels=images.pixels.pin_memory())
    images = images.to(device, non_blocking=True)
    if isinstance(targets, BatchTargets):
        return images, targets.to(device, non_blocking=True), targets.image_ids
    moved = tuple(target.to(device, non_blocking=True) for target in targets)
    return images, moved, tuple(target.image_id for target in targets)
