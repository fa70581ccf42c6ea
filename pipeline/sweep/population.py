"""Population based training: which settings may change in the middle of a training."""

from pipeline.config import SearchDimension

_MUTABLE = (
    *("train.optimizer.lr", "train.optimizer.momentum", "train.optimizer.weight_decay"),
    *("train.optimizer.bias_lr_factor", "train.optimizer.bias_weight_decay"),
    *("train.optimizer.norm_weight_decay", "train.optimizer.backbone_lr_factor"),
    *("train.optimizer.layer_decay", "train.optimizer.clip_norm"),
    *("data.flip_probability", "data.vertical_flip_probability", "data.copy_paste_probability"),
    *("data.color_jitter.brightness", "data.color_jitter.contrast"),
    *("data.color_jitter.saturation", "data.color_jitter.hue"),
)
"""Read anew at every step or image, and not part of what a checkpoint holds."""

_REASONS = {
    "model": "the copied weights would not fit",
    "train.optimizer.kind": "the copied state of the optimizer would not fit",
    "train.ema_decay": "the copied average of the weights would not fit",
    "train.schedule": "trials are compared at the same point of the same schedule",
    "train.global_batch": "it changes the order of the images and the length of the training",
    "train.recipe_batch": "it changes the length of the training",
    "train.accumulate": "it changes the shapes of the batches",
    "train.canvas": "it changes the shapes of the batches",
    "train.weights": "they are read only at the start",
    "seed": "it changes the order of the images",
    "data.train_short_sides": "it changes the shapes of the batches",
    "data.quarter_turn_probability": "it changes the shapes of the batches",
    "data.random_crop": "it changes the shapes of the batches",
    "data.scale_jitter": "it changes the shapes of the batches",
    "data.repeat_threshold": "it changes the order of the images",
    "data.images_without_objects": "it changes the order of the images",
    "data.min_keypoints": "it changes the order of the images",
}


def reason_not_mutable(key: str, dimension: SearchDimension) -> str | None:
    """Return why pbt cannot change a key in the middle of a training; None if it can."""
    if dimension.when:
        return "pbt takes no conditions (when)"
    if key in _MUTABLE:
        if dimension.kind == "grid":
            return "kind grid has no meaning for pbt; use choice"
        return None
    reasons = [text for prefix, text in _REASONS.items() if f"{key}.".startswith(f"{prefix}.")]
    reason = reasons[0] if reasons else "it is fixed when a training starts"
    return (
        f"pbt cannot change this key in the middle of a training: {reason}. It can change "
        "the learning rate, momentum, decays and clipping of train.optimizer, and the flips, "
        "colors and copy-paste of data"
    )
