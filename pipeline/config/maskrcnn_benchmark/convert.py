"""A config file of maskrcnn-benchmark becomes one of ours that means the same."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model.config.settings import check_settings
from pipeline.config.maskrcnn_benchmark.model import model_tree
from pipeline.config.maskrcnn_benchmark.original import NotCarried, Original, read_original
from pipeline.config.maskrcnn_benchmark.run import data_tree, leave_tests, train_tree, views_tree
from pipeline.config.run import RunConfig


@dataclass(frozen=True)
class Imported:
    """What became of a file.

    Args:
        source: its name.
        config: in our settings.
        not_carried: the keys that have no place in them.
    """

    source: str
    config: RunConfig
    not_carried: tuple[NotCarried, ...]

    def yaml(self) -> str:
        """What differs from our defaults, with what was not carried as comments above it."""
        head = [f"Imported from maskrcnn-benchmark's {self.source}."]
        if self.not_carried:
            head += ["Not carried:", *(f"  {left}" for left in self.not_carried)]
        comments = "\n".join(head).splitlines()
        tree = self.config.model_dump(mode="json", exclude_defaults=True)
        text = yaml.safe_dump(tree, sort_keys=False, width=100, default_flow_style=None)
        return "".join(f"# {line}\n" for line in comments) + text


def import_config(path: str | Path) -> Imported:
    """Read a file of maskrcnn-benchmark.

    The original's defaults count where the file is silent, so that the result means the same.

    Raises:
        ConfigError: the file cannot be read, every key that the original does not know, and every
            value that it or we would refuse.
    """
    path = Path(path)
    original = read_original(path)
    tree = _tree(original, re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "_", path.stem).strip("_"))
    return Imported(path.name, check_settings(RunConfig, tree), original.not_carried())


def _tree(original: Original, name: str) -> dict[str, Any]:
    model = model_tree(original)
    norms = [model[part]["norm"] for part in ("backbone", "fpn") if part in model]
    norms += [model[head].get("norm") for head in ("box", "mask") if model[head]]
    norms += [model["box"].get("fc_norm")] if model["box"] else []
    leave_tests(original)
    if views := views_tree(original):
        model["test_augmentation"] = views
    folder = original["OUTPUT_DIR"]
    data = data_tree(original)
    if data.get("source") == "cityscapes" and model["num_classes"] != 8:
        key = "MODEL.ROI_BOX_HEAD.NUM_CLASSES"
        original.leave(key, "Cityscapes has 8 classes whose objects are told apart")
        model["num_classes"] = 8
    metric = _metric(model, data)
    return {
        "name": name or "imported",
        "output": f"runs/{name or 'imported'}" if folder in ("", ".") else folder,
        "model": model,
        "data": data,
        "train": train_tree(original, "group_norm" in norms),
        "track": {"champion_metric": metric},
        "sweep": {"metric": metric},
    }


def _metric(model: dict[str, Any], data: dict[str, Any]) -> str:
    """What such a detector is chosen by."""
    if model["keypoint"] is not None:
        return "keypoints/AP"
    if model["mask"] is not None:
        return "segm/AP"
    if data.get("source") == "voc":
        return "voc/AP50"
    return "bbox/AP" if model["box"] or "retinanet" in model else "proposals/AR1000"
