"""Outputs to evaluate: a checkpoint on drawn shapes, and a VOC dataset."""

import shutil
from pathlib import Path

import pytest

from pipeline.config import DataConfig, EvaluateConfig
from pipeline.ingest.splits import prepare_split
from tests.annotated_datasets import voc_object, write_voc

VOC_IMAGES = {
    "000001": [voc_object("dog", 5, 5, 30, 30), voc_object("cat", 31, 3, 55, 20, difficult=1)],
    "000002": [voc_object("cat", 5, 5, 20, 20), voc_object("cat", 31, 3, 55, 20)],
}


@pytest.fixture
def evaluate_config(run_config, shapes_shards, tiny_checkpoint):
    """A config whose output has the tiny detector as its only checkpoint."""
    shutil.copytree(tiny_checkpoint, Path(run_config.output) / "train" / "step_00000010")
    return run_config.model_copy(
        update={
            "data": DataConfig(val_shards=shapes_shards),
            "evaluate": EvaluateConfig(batch=2, pictures=2),
        }
    )


@pytest.fixture
def voc_config(run_config, tmp_path):
    """A config whose output has validation shards of two VOC images, with boxes but no masks."""
    write_voc(tmp_path / "VOC2007", VOC_IMAGES)
    part = {"root": str(tmp_path / "VOC2007"), "set": "trainval"}
    data = DataConfig.model_validate({"source": "voc", "train": part, "val": part})
    config = run_config.model_copy(
        update={"data": data, "evaluate": EvaluateConfig(batch=2, pictures=1)}
    )
    prepare_split(config, "val")
    return config
