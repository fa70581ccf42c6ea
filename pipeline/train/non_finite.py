"""Detect NaN and infinity in losses and gradients, report their images, and skip such steps."""

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


class SkippedStepsError(NonFiniteLossError):
    """Too many steps in a row were skipped because their gradients were not finite.

    Args:
        step: the last of these steps.
        limit: number of steps in a row.
        with_loss_scale: whether the steps were skipped by the gradient scaler of fp16.
    """

    def __init__(self, step: int, limit: int, with_loss_scale: bool) -> None:
        super().__init__(step, (), "gradient")
        self.limit = limit
        self.with_loss_scale = with_loss_scale
        where = " at every loss scale" if with_loss_scale else ""
        precision = "Set train.precision=bf16 or fp32, or lower" if with_loss_scale else "Lower"
        self.args = (
            f"the gradients of the {limit} steps up to step {step} became NaN or "
            f"infinite{where}, so none of these steps was taken. {precision} train.optimizer.lr.",
        )

    def __reduce__(self) -> tuple[type["SkippedStepsError"], tuple[int, int, bool]]:  # type: ignore[override]
        return type(self), (self.step, self.limit, self.with_loss_scale)


class SkippedSteps:
    """Counts the steps in a row that were skipped; the count stays on the device.

    Args:
        max_skipped: steps in a row that may be skipped.
        with_loss_scale: whether the gradient scaler of fp16 skips steps, which then takes up to
            ``MAX_SKIPPED_STEPS`` to find its loss scale.
    """

    def __init__(self, max_skipped: int, with_loss_scale: bool) -> None:
        self._limit = max(max_skipped + 1, MAX_SKIPPED_STEPS if with_loss_scale else 1)
        self._with_loss_scale = with_loss_scale
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
            SkippedStepsError: too many steps in a row were skipped.
        """
        longest, self._longest = self._longest, None
        if longest is not None and longest.item() >= self._limit:
            raise SkippedStepsError(step, self._limit, self._with_loss_scale)


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

    def errors(self) -> list[NonFiniteLossError]:
        """Return an error for each step since the last call that was not finite, in order.

        Every worker must call it at the same steps, and gets the same errors.
        """
        observations, self._observations = self._observations, []
        if not observations:
            return []
        finite_here, finite_everywhere = torch.stack(
            [
                torch.stack([o.finite_here for o in observations]),
                torch.stack([o.finite_everywhere for o in observations]),
            ]
        ).tolist()
        first_of_step: dict[int, str] = {}
        for observation, finite in zip(observations, finite_everywhere, strict=True):
            if not finite:
                first_of_step.setdefault(observation.step, observation.what)
        found = list(zip(observations, finite_here, strict=True))
        return [
            NonFiniteLossError(step, _responsible_images(found, step, what), what)
            for step, what in first_of_step.items()
        ]


def _responsible_images(
    found: Sequence[tuple[_Observation, bool]], step: int, what: str
) -> list[int]:
    """Return the images of all workers whose own loss or gradient was not finite in a step."""
    in_step = [(o, finite) for o, finite in found if o.step == step and o.what == what]
    not_finite = [image for o, finite in in_step if not finite for image in o.image_ids]
    all_images = [image for o, _ in in_step for image in o.image_ids]
    # The sum over workers can overflow although each worker's share is finite: then report all.
    return _concatenate_workers(not_finite) or _concatenate_workers(all_images)


def _concatenate_workers(image_ids: list[int]) -> list[int]:
    """Return the lists of all workers, joined in rank order."""
    return [image for of_worker in gather_objects(image_ids) for image in of_worker]


def step_if_finite(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """Take an optimizer step, or none if the gradients are not finite; the device decides.

    Args:
        optimizer: a fused one, which reads ``found_inf`` as the gradient scaler sets it.
        finite: scalar bool.
    """
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
