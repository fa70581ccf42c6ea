"""The placement group that Ray reserved for the workers of a training."""

from ray.util.placement_group import get_current_placement_group

PLACEMENT_GROUP = "placement_group"
"""Key of its id in a training's reports; a sweep removes the groups of stopped trainings."""


def current_placement_group_id() -> str:
    """Return the id (hex) of the placement group this worker runs in; empty without one."""
    group = get_current_placement_group()
    return "" if group is None else str(group.id.hex())
