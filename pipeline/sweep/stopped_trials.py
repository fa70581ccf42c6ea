"""The reservations of stopped trials, given back.

Tune ends a stopped trial's process, and with it Ray Train's controller and workers; but what the
controller had reserved for them stays reserved until the whole job ends. Ray Train has a watchdog
for that, which needs the dashboard and, where several clusters share a machine, asks the wrong one.
"""

import time
from collections.abc import Iterable
from typing import Any

import ray
from ray import tune
from ray.util.placement_group import PlacementGroup, remove_placement_group

from pipeline.train.reservation import RESERVATION


def give_back_idle(reservations: Iterable[str]) -> set[str]:
    """Give back what no worker uses any more; returns those still in use.

    Args:
        reservations: of trainings that have ended or are ending.
    """
    total, free = ray.cluster_resources(), ray.available_resources()
    in_use = set()
    for reservation in reservations:
        # Each reservation appears as resources of its own, such as CPU_group_0_<id>.
        names = [
            name
            for name in total
            if name.endswith(reservation) and name.startswith(("CPU_group_", "GPU_group_"))
        ]
        if any(free.get(name, 0.0) < total[name] for name in names):
            in_use.add(reservation)
        elif names:
            group_id = ray.PlacementGroupID(bytes.fromhex(reservation))
            remove_placement_group(PlacementGroup(group_id))
    return in_use


def give_back_all(reservations: Iterable[str], patience_s: float) -> set[str]:
    """Wait until all are given back; returns what was still in use after ``patience_s``."""
    deadline = time.monotonic() + patience_s
    left = give_back_idle(reservations)
    while left and time.monotonic() < deadline:
        time.sleep(0.5)
        left = give_back_idle(left)
    return left


class StoppedTrials(tune.Callback):  # type: ignore[misc]
    """Gives back, while a sweep runs, what its ended trials had reserved."""

    def __init__(self) -> None:
        self._ended: set[str] = set()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune when a trial ends or is stopped; its workers may still be there."""
        reservation = (trial.last_result or {}).get(RESERVATION)
        if reservation:
            self._ended.add(reservation)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune again and again."""
        if self._ended:
            self._ended = give_back_idle(self._ended)
