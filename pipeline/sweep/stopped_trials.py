"""Remove the placement groups of stopped trials.

When Tune stops a trial it ends the trial's process, and with it Ray Train's controller and workers,
but the controller's placement group stays reserved until the whole job ends. Ray Train has a
watchdog for this case, but it needs the dashboard and queries the wrong cluster if several share a
machine.
"""

import time
from collections.abc import Iterable
from typing import Any

import ray
from ray import tune
from ray.util.placement_group import PlacementGroup, remove_placement_group

from pipeline.train.placement_group import PLACEMENT_GROUP


def remove_idle_groups(group_ids: Iterable[str]) -> set[str]:
    """Remove the placement groups that no worker uses anymore; return those still in use.

    Args:
        group_ids: placement groups (hex) of trainings that have ended or are ending.
    """
    total, free = ray.cluster_resources(), ray.available_resources()
    in_use = set()
    for group_id in group_ids:
        # Ray lists what a group reserves as extra resources, such as CPU_group_0_<id>.
        names = [
            name
            for name in total
            if name.endswith(group_id) and name.startswith(("CPU_group_", "GPU_group_"))
        ]
        if any(free.get(name, 0.0) < total[name] for name in names):
            in_use.add(group_id)
        elif names:
            group = PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id)))
            remove_placement_group(group)
    return in_use


def wait_and_remove_groups(group_ids: Iterable[str], timeout_s: float) -> set[str]:
    """Remove placement groups as they become idle; return those still in use at the timeout."""
    deadline = time.monotonic() + timeout_s
    in_use = remove_idle_groups(group_ids)
    while in_use and time.monotonic() < deadline:
        time.sleep(0.5)
        in_use = remove_idle_groups(in_use)
    return in_use


class StoppedTrials(tune.Callback):  # type: ignore[misc]
    """Removes the placement groups of ended and paused trials while a sweep runs."""

    def __init__(self) -> None:
        self._group_of: dict[str, str] = {}
        self._ended: set[str] = set()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note the group of a running trial."""
        if group_id := result.get(PLACEMENT_GROUP):
            self._group_of[trial.trial_id] = group_id

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Give up the group of a trial that was paused; its new workers get another."""
        self._give_up(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Give up the group of a trial; its workers may still be running."""
        self._give_up(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Give up the group of a trial; its workers may still be running."""
        self._give_up(trial)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Remove idle groups; Tune calls this repeatedly."""
        for trial in trials:
            if trial.status == "PAUSED":
                self._give_up(trial)
        if self._ended:
            self._ended = remove_idle_groups(self._ended)

    def _give_up(self, trial: Any) -> None:
        if group_id := self._group_of.pop(trial.trial_id, None):
            self._ended.add(group_id)
