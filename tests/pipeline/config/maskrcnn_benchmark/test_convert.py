"""A maskrcnn-benchmark config converts to the same model and schedule; other keys are reported."""

import functools
import re
from pathlib import Path

import pytest
import yaml

from model.config.settings import ConfigError
from pipeline.config import load_config
from pipeline.config.augmentation import ColorJitterConfig
from pipeline.config.maskrcnn_benchmark.convert import import_config
from pipeline.config.maskrcnn_benchmark.original import python_literal
from pipeline.config.maskrcnn_benchmark.tables import DEFAULTS
from tests.pipeline.config.maskrcnn_benchmark import original_files

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
DETECTRON = "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained"


@pytest.fixture(scope="module")
def imported_base(tmp_path_factory):
    @functools.cache
    def run(text):
        path = tmp_path_factory.mktemp("base") / "old.yaml"
        path.write_text(text)
        return import_config(path)

    return run


@pytest.mark.parametrize(
    ("text", "recipe", "weights"),
    [
        (original_files.MASK_R50_FPN, "mask_rcnn_r50_fpn_1x", "MSRA/R-50"),
        (original_files.FASTER_R50_FPN, "faster_rcnn_r50_fpn_1x", "MSRA/R-50"),
        (original_files.MASK_R50_C4, "mask_rcnn_r50_c4_1x", "MSRA/R-50"),
        (original_files.MASK_X101_FPN, "mask_rcnn_x101_32x8d_fpn_1x", "20171220/X-101-32x8d"),
        (original_files.KEYPOINT_R50_FPN, "keypoint_rcnn_r50_fpn_1x", "MSRA/R-50"),
        (original_files.RPN_R50_FPN, "rpn_r50_fpn_1x", "MSRA/R-50"),
        (original_files.RETINANET_R50_FPN, "retinanet_r50_fpn_1x", "MSRA/R-50"),
        (original_files.MASK_R50_FPN_GN, "mask_rcnn_r50_fpn_gn_1x", "47261647/R-50-GN"),
    ],
    ids=lambda value: value if str(value).endswith("1x") else "",
)
def test_an_original_file_is_converted_to_our_counterpart(
    text, recipe, weights, import_text, tmp_path
):
    imported = import_text(text)
    (tmp_path / "new.yaml").write_text(imported.yaml())
    config = load_config(tmp_path / "new.yaml")
    expected = load_config(CONFIGS / "coco_2014" / f"{recipe}.yaml")
    assert config.train.weights == f"{DETECTRON}/{weights}.pkl"
    # Recipes leave the weights to the user, because no digest is published.
    train = config.train.model_copy(update={"weights": expected.train.weights})
    names = {"name": expected.name, "output": expected.output}
    assert config.model_copy(update={"train": train, **names}) == expected
    skipped = {item.key for item in imported.skipped if "has no effect" not in item.reason}
    assert skipped <= {"TEST.IMS_PER_BATCH"}


def test_a_file_without_keys_has_the_defaults_of_the_original(import_text):
    config = import_text("{}").config
    assert config.model.backbone.features == "c4"
    assert config.model.box.pool_side == 14
    assert config.model.mask is None
    assert config.model.rpn.pre_nms_train == 12000
    assert config.train.schedule.steps == 40000
    assert config.train.optimizer.lr == 0.001
    assert config.train.optimizer.weight_decay == 0.0005
    assert config.data.source == "shapes"


def other_value(value):
    """Return another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return value - 1 if value > 1 else value + 1
        case float():
            return value / 2 or 0.5
        case str():
            return f"{value}other"
        case (*most, last):
            return [*most, other_value(last)]
    return ["other"]


@pytest.mark.parametrize("key", sorted(DEFAULTS))
def test_every_key_of_the_original_is_converted_or_reported(key, import_text, imported_base):
    """In a model that uses the key, another value changes the config or is reported."""
    base = original_files.MASK_R50_FPN
    if "RETINANET" in key or key == "TEST.DETECTIONS_PER_IMG":
        base = original_files.RETINANET_R50_FPN
    elif "KEYPOINT" in key:
        base = original_files.KEYPOINT_R50_FPN
    tree = yaml.safe_load(base)
    before = imported_base(base)
    *sections, leaf = key.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
    value = python_literal(node.get(leaf, DEFAULTS[key]))
    others = {"MODEL.BACKBONE.CONV_BODY": "R-101-FPN", "OUTPUT_DIR": "out"}
    node[leaf] = others.get(key, other_value(value))
    try:
        after = import_text(yaml.safe_dump(tree))
    except ConfigError:
        return  # an error is not silent
    skipped = {item.key for item in after.skipped}
    assert after.config != before.config or key in skipped


def test_a_skipped_key_is_reported_with_its_value_and_the_reason(import_text):
    text = original_files.MASK_R50_FPN + "DATALOADER: {ASPECT_RATIO_GROUPING: false}\n"
    imported = import_text(text)
    skipped = {item.key: item.value for item in imported.skipped}
    assert skipped["DATALOADER.ASPECT_RATIO_GROUPING"] is False
    line = r"^#   DATALOADER.ASPECT_RATIO_GROUPING = False: \w+"
    assert re.search(line, imported.yaml(), re.MULTILINE)


def test_color_jitter_and_vertical_flips_are_converted(import_text):
    augmentation = "INPUT: {HUE: 0.1, CONTRAST: 0.3, VERTICAL_FLIP_PROB_TRAIN: 0.25}\n"
    imported = import_text(original_files.MASK_R50_FPN + augmentation)
    assert not any(item.key.startswith("INPUT.") for item in imported.skipped)
    data = imported.config.data
    assert data.color_jitter == ColorJitterConfig(contrast=0.3, hue=0.1)
    assert data.vertical_flip_probability == 0.25
