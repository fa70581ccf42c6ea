"""Settings of a chain that runs in seconds."""

from pipeline.config import RunConfig


def shrink(config):
    """Return the config with twelve drawn images and two training steps."""
    tree = config.model_dump(mode="json")
    tree["data"] |= {"rows_per_shard": 4, "rows_per_group": 4}
    tree["data"]["shapes"] |= {"images": 8, "val_images": 4, "side": 64, "max_objects": 2}
    tree["train"] |= {"global_batch": 4}
    tree["train"]["schedule"] |= {"steps": 2, "milestones": [1], "warmup_steps": 0}
    tree["evaluate"] |= {"pictures": 2}
    tree["chain"] |= {"retry_pause_s": 0.2}
    return RunConfig.model_validate(tree)
