"""Convert a config file of maskrcnn-benchmark to an equivalent RunConfig."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model.config.settings import check_settings
from pipeline.config.maskrcnn_benchmark.model import convert_model
from pipeline.config.maskrcnn_benchmark.original import (
    OriginalConfig,
    SkippedKey,
    Tree,
    read_original,
)
from pipeline.config.maskrcnn_benchmark.run import (
    convert_data,
    convert_test_augmentation,
    convert_train,
    skip_test_settings,
)
from pipeline.config.run import RunConfig


@dataclass(frozen=True)
class ImportedConfig:
    """The result of converting a file.

    Args:
        source: name of the file.
        config: the equivalent configuration.
        skipped: keys of the file that could not be converted.
    """

    source: str
    config: RunConfig
    skipped: tuple[SkippedKey, ...]

    def yaml(self) -> str:
        """Return the values that differ from our defaults, below the skipped keys as comments."""
        head = [f"Imported from maskrcnn-benchmark's {self.source}."]
        if self.skipped:
            head += ["Skipped:", *(f"  {key}" for key in self.skipped)]
        comments = "\n".join(head).splitlines()
        tree = self.config.model_dump(mode="json", exclude_defaults=True)
        text = yaml.safe_dump(tree, sort_keys=False, width=100, default_flow_style=None)
        return "".join(f"# {line}\n" for line in comments) + text


def import_config(path: str | Path) -> ImportedConfig:
    """Convert a config file of maskrcnn-benchmark.

    Keys that the file does not set have maskrcnn-benchmark's defaults, not ours.

    Raises:
        ConfigError: the file cannot be read; or lists every key that maskrcnn-benchmark does not
            know and every value that it or we would reject.
    """
    path = Path(path)
    original = read_original(path)
    name = re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9._-]", "_", path.stem).strip("_") or "imported"
    config = check_settings(RunConfig, _convert(original, name))
    return ImportedConfig(path.name, config, original.skipped())


def _convert(original: OriginalConfig, name: str) -> Tree:
    model = convert_model(original)
    norms = [model[part]["norm"] for part in ("backbone", "fpn") if part in model]
    norms += [model[head].get("norm") for head in ("box", "mask") if model[head]]
    norms += [model["box"].get("fc_norm")] if model["box"] else []
    skip_test_settings(original)
    if test_augmentation := convert_test_augmentation(original):
        model["test_augmentation"] = test_augmentation
    folder = original["OUTPUT_DIR"]
    data = convert_data(original)
    if data.get("source") == "cityscapes" and model["num_classes"] != 8:
        key = "MODEL.ROI_BOX_HEAD.NUM_CLASSES"
        original.skip(key, "8 is used: Cityscapes has instance annotations for 8 classes")
        model["num_classes"] = 8
    metric = _main_metric(model, data)
    return {
        "name": name,
        "output": f"runs/{name}" if folder in ("", ".") else folder,
        "model": model,
        "data": data,
        "train": convert_train(original, "group_norm" in norms),
        "track": {"champion_metric": metric},
        "sweep": {"metric": metric},
    }


def _main_metric(model: dict[str, Any], data: dict[str, Any]) -> str:
    """Return the metric that ranks detectors of this kind."""
    if model["keypoint"] is not None:
        return "keypoints/AP"
    if model["mask"] is not None:
        return "segm/AP"
    if data.get("source") == "voc":
        return "voc/AP50"
    return "bbox/AP" if model["box"] or "retinanet" in model else "proposals/AR1000"
