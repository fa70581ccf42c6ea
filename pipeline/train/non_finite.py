"""The watch over NaN and infinity: which images were in the step that brought them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.train.loss_normalization import worker_count


class NonFiniteLossError(RuntimeError):
    """A loss or gradient became NaN or infinite.

    Args:
        step: the optimiser step, counted from 0, that was being taken.
        image_ids: the images of the micro-batches it appeared in, of all workers.
        what: "loss" or "gradient".
    """

    def __init__(self, step: int, image_ids: Sequence[int], what: str) -> None:
        self.step = step
        self.image_ids = tuple(image_ids)
        self.what = what
        super().__init__(
            f"the {what} became NaN or infinite at step {step}; the images of that step were "
            f"{list(image_ids)}. Lower train.optimizer.lr, set train.optimizer.clip_norm, or look "
            "at these images' annotations."
        )

    def __reduce__(self) -> tuple[type["NonFiniteLossError"], tuple[int, tuple[int, ...], str]]:
        return type(self), (self.step, self.image_ids, self.what)


@dataclass(frozen=True)
class _Observation:
    step: int
    what: str
    image_ids: tuple[int, ...]
    finite_here: Tensor
    finite_everywhere: Tensor


class NonFiniteWatch:
    """Collects verdicts on the device and reads them rarely, since reading waits for the device."""

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
        """Note a scalar bool verdict of this worker and one that is equal on all workers."""
        self._observations.append(
            _Observation(step, what, image_ids, finite_here, finite_everywhere)
        )

    def raise_if_not_finite(self) -> None:
        """Read the verdicts since the last call; every worker must call at the same steps.

        Raises:
            NonFiniteLossError: on every worker alike, for the first step that was not finite.
        """
        observations, self._observations = self._observations, []
        if not observations:
            return
        verdicts = torch.stack(
            [
                torch.stack([o.finite_here for o in observations]),
                torch.stack([o.finite_everywhere for o in observations]),
            ]
        ).tolist()
        first = next((i for i, finite in enumerate(verdicts[1]) if not finite), None)
        if first is None:
            return
        step, what = observations[first].step, observations[first].what
        in_step = [
            (o, here)
            for o, here in zip(observations, verdicts[0], strict=True)
            if o.step == step and o.what == what
        ]
        guilty = [image for o, here in in_step if not here for image in o.image_ids]
        every = [image for o, _ in in_step for image in o.image_ids]
        # An overflow can appear only in the sum over workers: then nobody is guilty alone.
        image_ids = _gathered(guilty) or _gathered(every)
        raise NonFiniteLossError(step, image_ids, what)


def _gathered(image_ids: list[int]) -> list[int]:
    """The lists of all workers, in rank order."""
    if worker_count() == 1:
        return image_ids
    lists: list[list[int]] = [[] for _ in range(worker_count())]
    dist.all_gather_object(lists, image_ids)
    return [image for part in lists for image in part]
