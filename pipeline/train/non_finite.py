"""Detect NaN and infinity in losses and gradients, and report the images that caused them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.train.distributed import gather_objects

# Each skipped step of fp16 halves the loss scale: after this many in a row, from the usual 65,536,
# the scale is below 1e-3, and the gradients would overflow without any scaling.
MAX_SKIPPED_STEPS = 27


class NonFiniteLossError(RuntimeError):
    """A loss or gradient became NaN or infinite.

    Args:
        step: the optimizer step it happened in, counted from 0.
        image_ids: images of the micro-batches it happened in, on all workers.
        what: "loss" or "gradient".
    """

    def __init__(self, step: int, image_ids: Sequence[int], what: str) -> None:
        self.step = step
        self.image_ids = tuple(image_ids)
        self.what = what
        super().__init__(
            f"the {what} became NaN or infinite at step {step}; the images of that step were "
            f"{list(image_ids)}. Lower train.optimizer.lr, set train.optimizer.clip_norm, or check "
            "the annotations of these images."
        )

    def explain(self, start_step: int, loaded_from: str | None) -> str:
        """Return the error message for a training that started with loaded weights.

        A loss that is not finite before the first update is the fault of the weights: the images
        do not change from one training to the next.

        Args:
            start_step: optimizer steps taken before the weights were loaded.
            loaded_from: where they come from; None for a training from scratch.
        """
        if loaded_from is None or self.step != start_step or self.what != "loss":
            return str(self)
        return (
            f"the loss is NaN or infinite in the first step with the weights of {loaded_from}, "
            "before any update: they are damaged or belong to another model. Use other weights or "
            "an earlier checkpoint."
        )

    def __reduce__(self) -> tuple[type["NonFiniteLossError"], tuple[int, tuple[int, ...], str]]:
        return type(self), (self.step, self.image_ids, self.what)


class GradientOverflowError(NonFiniteLossError):
    """Too many steps of fp16 in a row were skipped because gradients overflowed."""

    def __init__(self, step: int) -> None:
        super().__init__(step, (), "gradient")
        self.args = (
            f"the gradients of the {MAX_SKIPPED_STEPS} steps up to step {step} became NaN or "
            "infinite at every loss scale, so none of these steps was taken. Set "
            "train.precision=bf16 or fp32, or lower train.optimizer.lr.",
        )

    def __reduce__(self) -> tuple[type["GradientOverflowError"], tuple[int]]:  # type: ignore[override]
        return type(self), (self.step,)


class SkippedSteps:
    """Counts the steps in a row that fp16 skipped; the count stays on the device."""

    def __init__(self) -> None:
        self._in_a_row: Tensor | None = None
        self._longest: Tensor | None = None

    def observe(self, finite: Tensor) -> None:
        """Record whether the gradients of a step are finite: a scalar bool."""
        skipped = (~finite).long()
        in_a_row = skipped if self._in_a_row is None else (self._in_a_row + 1) * skipped
        longest = in_a_row if self._longest is None else torch.maximum(self._longest, in_a_row)
        self._in_a_row, self._longest = in_a_row, longest

    def raise_if_too_many(self, step: int) -> None:
        """Read the count; the gradients, and so the count, are equal on all workers.

        Args:
            step: the last step.

        Raises:
            GradientOverflowError: ``MAX_SKIPPED_STEPS`` steps in a row were skipped.
        """
        longest, self._longest = self._longest, None
        if longest is not None and longest.item() >= MAX_SKIPPED_STEPS:
            raise GradientOverflowError(step)


@dataclass(frozen=True)
class _Observation:
    step: int
    what: str
    image_ids: tuple[int, ...]
    finite_here: Tensor
    finite_everywhere: Tensor


class NonFiniteWatch:
    """Collects finite flags on the device. Read them rarely: reading waits for the device."""

    def __init__(self) -> None:
        self._observations: list[_Observation] = []

    def observe(
        self,
        step: int,
        what: str,
        image_ids: tuple[int, ...],
        finite_here: Tensor,
        finite_everywhere: Tensor,
    ) -> None:
        """Record whether a loss or gradient is finite.

        Args:
            step: the optimizer step.
            what: "loss" or "gradient".
            image_ids: this worker's images that it comes from.
            finite_here: scalar bool of this worker.
            finite_everywhere: scalar bool, equal on all workers.
        """
        self._observations.append(
            _Observation(step, what, image_ids, finite_here, finite_everywhere)
        )

    def raise_if_not_finite(self) -> None:
        """Read the flags since the last call; every worker must call it at the same steps.

        Raises:
            NonFiniteLossError: for the first step that was not finite; raised on every worker.
        """
        observations, self._observations = self._observations, []
        if not observations:
            return
        finite_here, finite_everywhere = torch.stack(
            [
                torch.stack([o.finite_here for o in observations]),
                torch.stack([o.finite_everywhere for o in observations]),
            ]
        ).tolist()
        first = next((i for i, finite in enumerate(finite_everywhere) if not finite), None)
        if first is None:
            return
        step, what = observations[first].step, observations[first].what
        in_step = [
            (observation, finite)
            for observation, finite in zip(observations, finite_here, strict=True)
            if observation.step == step and observation.what == what
        ]
        not_finite = [image for o, finite in in_step if not finite for image in o.image_ids]
        all_images = [image for o, _ in in_step for image in o.image_ids]
        # The sum over workers can overflow although each worker's share is finite: then report all.
        image_ids = _concatenate_workers(not_finite) or _concatenate_workers(all_images)
        raise NonFiniteLossError(step, image_ids, what)


def _concatenate_workers(image_ids: list[int]) -> list[int]:
    """Return the lists of all workers, joined in rank order."""
    return [image for of_worker in gather_objects(image_ids) for image in of_worker]
