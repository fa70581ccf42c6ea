"""What Ray reserved for the workers of a training, named in its reports."""

from ray.util.placement_group import get_current_placement_group

RESERVATION = "placement_group"
"""The report's key; a sweep gives back what a stopped training had reserved."""


def current_reservation() -> str:
    """The id (hex) of the placement group this worker runs in; empty without one."""
    group = get_current_placement_group()
    return "" if group is None else str(group.id.hex())
