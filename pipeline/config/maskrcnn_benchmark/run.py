"""Data, solver and tests of a file of maskrcnn-benchmark, in our settings."""

import re
from typing import Any

from pipeline.config.maskrcnn_benchmark.original import Original
from pipeline.config.maskrcnn_benchmark.tables import WEIGHTS

Tree = dict[str, Any]
Part = tuple[str, Tree]
"""A source, and a part of one of its splits."""

# Its list of data sets: names, and what they stand for below one folder.
_COCO = re.compile(r"(keypoints_)?coco_(2014|2017)_(train|val|minival|valminusminival)")
_VOC = re.compile(r"voc_(2007|2012)_(train|val|trainval|test)(_cocostyle)?")
_CITYSCAPES = re.compile(r"cityscapes_(?:poly|mask)_instance_(train|val)")
_CITYSCAPES_COCO = re.compile(r"cityscapes_fine_\w+_(train|val|test)_cocostyle")


def data_tree(original: Original) -> Tree:
    """The ``data`` part."""
    sides = original["INPUT.MIN_SIZE_TRAIN"]
    tree: Tree = {
        "flip_probability": original["INPUT.HORIZONTAL_FLIP_PROB_TRAIN"],
        "train_short_sides": [] if sides == (original["INPUT.MIN_SIZE_TEST"],) else list(sides),
        "min_keypoints": 10 if original["MODEL.KEYPOINT_ON"] else 0,
    }
    for key in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE"):
        original.expect(f"INPUT.{key}", 0, why="colours are not jittered")
    original.expect("INPUT.VERTICAL_FLIP_PROB_TRAIN", 0, why="pictures are not turned over")
    original.expect(
        "DATALOADER.ASPECT_RATIO_GROUPING", True, why="batches are always grouped by shape"
    )
    if original.gives("DATALOADER.NUM_WORKERS"):
        tree["decode_threads"] = max(1, original["DATALOADER.NUM_WORKERS"])
    if original["PATHS_CATALOG"]:
        original.leave("PATHS_CATALOG", "data.train and data.val say where the data is")
    return tree | _splits(original)


def _splits(original: Original) -> Tree:
    train, test = (_parts(original, f"DATASETS.{split}") for split in ("TRAIN", "TEST"))
    if not train and not test:
        return {}
    if not train or not test:
        key = "DATASETS.TEST" if train else "DATASETS.TRAIN"
        original.leave(key, "both splits are needed: the other one stands for it, too")
    source = (train or test)[0][0]
    for key, parts in (("DATASETS.TRAIN", train), ("DATASETS.TEST", test)):
        if any(other != source for other, _ in parts):
            original.leave(key, f"one kind of source for all: only what is {source} is carried")
    if len(test) > 1:
        original.leave("DATASETS.TEST", "measured together here, one by one there")
    mine, measured = (
        [part for other, part in parts if other == source] for parts in (train or test, test)
    )
    return {"source": source, "train": mine, "val": measured or mine}


def _parts(original: Original, key: str) -> list[Part]:
    parts = []
    for name in original[key]:
        part = _part(str(name), bool(original["MODEL.MASK_ON"]))
        if part is None:
            original.leave(key, f"{name} is not in its catalog; write the paths of your data")
            name = re.sub(r"[^\w.-]", "_", str(name))
            part = _coco_part(f"data/{name}/annotations.json", f"data/{name}/images")
        parts.append(part)
    return parts


def _coco_part(annotations: str, images: str) -> Part:
    return "coco", {"annotations": annotations, "images": images}


def _part(name: str, masks: bool) -> Part | None:
    """What a name of its catalog stands for, under data/ instead of datasets/."""
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


def train_tree(original: Original, group_norm: bool) -> Tree:
    """The ``train`` part.

    Args:
        original: the file.
        group_norm: whether there are norm layers that learn; the original decays their weights.
    """
    solver = "SOLVER."
    batch = original[solver + "IMS_PER_BATCH"]
    decay = original[solver + "WEIGHT_DECAY"]
    original.expect(solver + "WARMUP_METHOD", "linear", why="the warm-up is linear")
    original.expect("MODEL.DEVICE", "cuda", "cpu", why="devices are cuda and cpu")
    original.expect("AMP_VERBOSE", False, why="there is nothing to print")
    half = original["DTYPE"] == "float16"
    original.expect("DTYPE", "float32", "float16", why="no such precision; fp32 stands")
    return {
        "device": "cpu" if original["MODEL.DEVICE"] == "cpu" else "auto",
        "precision": "fp16" if half else "fp32",
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
            "warmup_steps": original[solver + "WARMUP_ITERS"],
            "warmup_factor": original[solver + "WARMUP_FACTOR"],
        },
        "checkpoint_every": original[solver + "CHECKPOINT_PERIOD"],
        "validate_every": original[solver + "TEST_PERIOD"],
        "weights": _weights(original),
    }


def _weights(original: Original) -> str | None:
    weights = original["MODEL.WEIGHT"]
    if weights.startswith("catalog://") and weights not in WEIGHTS:
        original.leave("MODEL.WEIGHT", "not in its catalog; give train.weights a file or URL")
        return None
    return WEIGHTS.get(weights, weights) or None


def leave_tests(original: Original) -> None:
    """Name what a file says of its tests and has no setting here."""
    if original.gives("TEST.IMS_PER_BATCH"):
        original.leave(
            "TEST.IMS_PER_BATCH",
            "of all GPUs together; evaluate.batch is of one, and changes no AP",
        )
    for key in ("TEST.EXPECTED_RESULTS", "TEST.EXPECTED_RESULTS_SIGMA_TOL"):
        if original.gives(key) and original[key]:
            original.leave(key, "results are compared by promotion, not with a constant")


def views_tree(original: Original) -> dict[str, Any] | None:
    """The ``model.test_augmentation`` part: the test's own size and those beside it."""
    key = "TEST.BBOX_AUG."
    if not original[key + "ENABLED"]:
        return None
    own, scales = original["INPUT.MIN_SIZE_TEST"], original[key + "SCALES"]
    limit, flip = original["INPUT.MAX_SIZE_TEST"], original[key + "H_FLIP"]
    if scales:
        if original[key + "MAX_SIZE"] != limit:
            original.leave("INPUT.MAX_SIZE_TEST", "views have one limit, TEST.BBOX_AUG.MAX_SIZE")
        limit = original[key + "MAX_SIZE"]
        if original[key + "SCALE_H_FLIP"] != flip:
            original.leave(key + "SCALE_H_FLIP", "mirrored are all views or none, by H_FLIP")
    sides = [own, *(side for side in scales if side != own)]
    return {"short_sides": sides, "long_side": limit, "flip": flip}
