"""Convert the data, solver and test settings of a maskrcnn-benchmark config."""

import re

from pipeline.config.maskrcnn_benchmark.original import OriginalConfig, Tree
from pipeline.config.maskrcnn_benchmark.tables import WEIGHTS_CATALOG

Part = tuple[str, Tree]
"""``data.source``, and one part of a split of that source."""

# Names in maskrcnn-benchmark's catalog of datasets.
_COCO = re.compile(r"(keypoints_)?coco_(2014|2017)_(train|val|minival|valminusminival)")
_VOC = re.compile(r"voc_(2007|2012)_(train|val|trainval|test)(_cocostyle)?")
_CITYSCAPES = re.compile(r"cityscapes_(?:poly|mask)_instance_(train|val)")
_CITYSCAPES_COCO = re.compile(r"cityscapes_fine_\w+_(train|val|test)_cocostyle")


def convert_data(original: OriginalConfig) -> Tree:
    """Return the ``data`` section."""
    sides = original["INPUT.MIN_SIZE_TRAIN"]
    tree: Tree = {
        "flip_probability": original["INPUT.HORIZONTAL_FLIP_PROB_TRAIN"],
        "train_short_sides": [] if sides == (original["INPUT.MIN_SIZE_TEST"],) else list(sides),
        "min_keypoints": 10 if original["MODEL.KEYPOINT_ON"] else 0,
    }
    colors = ("brightness", "contrast", "saturation", "hue")
    jitter = {key: original[f"INPUT.{key.upper()}"] for key in colors}
    if any(jitter.values()):
        tree["color_jitter"] = jitter
    if original["INPUT.VERTICAL_FLIP_PROB_TRAIN"]:
        tree["vertical_flip_probability"] = original["INPUT.VERTICAL_FLIP_PROB_TRAIN"]
    original.expect(
        "DATALOADER.ASPECT_RATIO_GROUPING",
        True,
        reason="batches are always grouped by aspect ratio",
    )
    if original.sets("DATALOADER.NUM_WORKERS"):
        tree["decode_threads"] = max(1, original["DATALOADER.NUM_WORKERS"])
    if original["PATHS_CATALOG"]:
        original.skip("PATHS_CATALOG", "replaced by data.train and data.val")
    splits = _convert_splits(original)
    if splits.get("source", "coco") == "coco":
        # Its other datasets keep images without objects.
        tree["images_without_objects"] = "drop"
    return tree | splits


def _convert_splits(original: OriginalConfig) -> Tree:
    train, test = (_convert_datasets(original, f"DATASETS.{split}") for split in ("TRAIN", "TEST"))
    if not train and not test:
        return {}
    if not train or not test:
        key = "DATASETS.TEST" if train else "DATASETS.TRAIN"
        original.skip(key, "required; the other split is used for both")
    source = (train or test)[0][0]
    for key, parts in (("DATASETS.TRAIN", train), ("DATASETS.TEST", test)):
        if any(other != source for other, _ in parts):
            original.skip(key, f"all datasets need the same source; only {source} is converted")
    if len(test) > 1:
        original.skip("DATASETS.TEST", "evaluated together, not one by one")
    train_parts, val_parts = (
        [part for other, part in parts if other == source] for parts in (train or test, test)
    )
    return {"source": source, "train": train_parts, "val": val_parts or train_parts}


def _convert_datasets(original: OriginalConfig, key: str) -> list[Part]:
    parts = []
    for name in original[key]:
        part = _find_dataset(str(name), bool(original["MODEL.MASK_ON"]))
        if part is None:
            original.skip(key, f"{name} is not in the catalog; set the paths of your data")
            name = re.sub(r"[^\w.-]", "_", str(name))
            part = _coco_part(f"data/{name}/annotations.json", f"data/{name}/images")
        parts.append(part)
    return parts


def _coco_part(annotations: str, images: str) -> Part:
    return "coco", {"annotations": annotations, "images": images}


def _find_dataset(name: str, masks: bool) -> Part | None:
    """Return a dataset of the catalog, in data/ instead of datasets/; None if unknown."""
    if match := _COCO.fullmatch(name):
        keypoints, year, split = match.groups()
        kind = "person_keypoints" if keypoints else "instances"
        images = "train" if split == "train" else "val"
        return _coco_part(
            f"data/coco/annotations/{kind}_{split}{year}.json", f"data/coco/{images}{year}"
        )
    if match := _VOC.fullmatch(name):
        year, split, coco = match.groups()
        root = f"data/VOCdevkit/VOC{year}"
        if coco:
            return _coco_part(f"{root}/Annotations/pascal_{split}{year}.json", f"{root}/JPEGImages")
        return "voc", {"root": root, "set": split, "masks": masks}
    if match := _CITYSCAPES.fullmatch(name):
        return "cityscapes", {"root": "data/cityscapes", "set": match[1]}
    if match := _CITYSCAPES_COCO.fullmatch(name):
        return _coco_part(
            f"data/cityscapes/annotations/instancesonly_filtered_gtFine_{match[1]}.json",
            "data/cityscapes/images",
        )
    return None


def convert_train(original: OriginalConfig, group_norm: bool) -> Tree:
    """Return the ``train`` section.

    Args:
        original: the config to convert.
        group_norm: whether the detector has trainable norm layers; maskrcnn-benchmark applies the
            weight decay to their weights.
    """
    solver = "SOLVER."
    batch = original[solver + "IMS_PER_BATCH"]
    decay = original[solver + "WEIGHT_DECAY"]
    original.expect(
        solver + "WARMUP_METHOD", "linear", "constant", reason="unknown warm-up; linear is used"
    )
    constant = original[solver + "WARMUP_METHOD"] == "constant"
    original.expect("MODEL.DEVICE", "cuda", "cpu", reason="unsupported device; auto is used")
    original.expect("AMP_VERBOSE", False, reason="there is nothing to print")
    original.expect("DTYPE", "float32", "float16", reason="unsupported precision; fp32 is used")
    precision = "fp16" if original["DTYPE"] == "float16" else "fp32"
    return {
        "device": "cpu" if original["MODEL.DEVICE"] == "cpu" else "auto",
        # Files that do not state the type are not meant for one.
        "precision": precision if original.sets("DTYPE") else "auto",
        "global_batch": batch,
        "recipe_batch": batch,
        "optimizer": {
            "lr": original[solver + "BASE_LR"],
            "momentum": original[solver + "MOMENTUM"],
            "weight_decay": decay,
            "bias_lr_factor": original[solver + "BIAS_LR_FACTOR"],
            "bias_weight_decay": original[solver + "WEIGHT_DECAY_BIAS"],
            **({"norm_weight_decay": decay} if group_norm else {}),
        },
        "schedule": {
            "steps": original[solver + "MAX_ITER"],
            "milestones": list(original[solver + "STEPS"]),
            "gamma": original[solver + "GAMMA"],
            **({"warmup_kind": "constant"} if constant else {}),
            "warmup_steps": original[solver + "WARMUP_ITERS"],
            "warmup_factor": original[solver + "WARMUP_FACTOR"],
        },
        "checkpoint_every": original[solver + "CHECKPOINT_PERIOD"],
        "validate_every": original[solver + "TEST_PERIOD"],
        "weights": _convert_weights(original),
    }


def _convert_weights(original: OriginalConfig) -> str | None:
    weights = original["MODEL.WEIGHT"]
    if weights.startswith("catalog://") and weights not in WEIGHTS_CATALOG:
        original.skip("MODEL.WEIGHT", "not in the catalog; set train.weights to a file or URL")
        return None
    return WEIGHTS_CATALOG.get(weights, weights) or None


def skip_test_settings(original: OriginalConfig) -> None:
    """Report the test settings that have no counterpart here."""
    if original.sets("TEST.IMS_PER_BATCH"):
        original.skip(
            "TEST.IMS_PER_BATCH",
            "a total over all GPUs; evaluate.batch is per forward pass and does not affect AP",
        )
    for key in ("TEST.EXPECTED_RESULTS", "TEST.EXPECTED_RESULTS_SIGMA_TOL"):
        if original.sets(key) and original[key]:
            original.skip(key, "results are compared with the champion's, not with constants")


def convert_test_augmentation(original: OriginalConfig) -> Tree | None:
    """Return the ``model.test_augmentation`` section; None if it is off.

    Its sizes are the test size and the additional scales.
    """
    key = "TEST.BBOX_AUG."
    if not original[key + "ENABLED"]:
        return None
    test_size, scales = original["INPUT.MIN_SIZE_TEST"], original[key + "SCALES"]
    limit, flip = original["INPUT.MAX_SIZE_TEST"], original[key + "H_FLIP"]
    if scales:
        if original[key + "MAX_SIZE"] != limit:
            original.skip("INPUT.MAX_SIZE_TEST", "all views share TEST.BBOX_AUG.MAX_SIZE")
        limit = original[key + "MAX_SIZE"]
        if original[key + "SCALE_H_FLIP"] != flip:
            original.skip(key + "SCALE_H_FLIP", "H_FLIP flips either all views or none")
    sides = [test_size, *(side for side in scales if side != test_size)]
    return {"short_sides": sides, "long_side": limit, "flip": flip}
