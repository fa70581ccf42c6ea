"""Laws of the import of maskrcnn-benchmark's files."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from model.config.settings import ConfigError
from pipeline.config import RunConfig, load_config
from pipeline.config.__main__ import main
from pipeline.config.maskrcnn_benchmark.convert import import_config
from pipeline.config.maskrcnn_benchmark.original import python_literal
from pipeline.config.maskrcnn_benchmark.tables import DEFAULTS
from tests.pipeline.config.maskrcnn_benchmark import originals

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
DETECTRON = "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained"


@pytest.fixture
def import_text(tmp_path):
    def run(text, name="old"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return import_config(path)

    return run


@pytest.fixture(scope="module")
def imported_base(tmp_path_factory):
    @functools.cache
    def run(text):
        path = tmp_path_factory.mktemp("base") / "old.yaml"
        path.write_text(text)
        return import_config(path)

    return run


@pytest.mark.parametrize(
    ("text", "ours", "weights"),
    [
        (originals.MASK_R50_FPN, "mask_rcnn_r50_fpn_1x", "MSRA/R-50"),
        (originals.FASTER_R50_FPN, "faster_rcnn_r50_fpn_1x", "MSRA/R-50"),
        (originals.MASK_R50_C4, "mask_rcnn_r50_c4_1x", "MSRA/R-50"),
        (originals.MASK_X101_FPN, "mask_rcnn_x101_32x8d_fpn_1x", "20171220/X-101-32x8d"),
        (originals.KEYPOINT_R50_FPN, "keypoint_rcnn_r50_fpn_1x", "MSRA/R-50"),
        (originals.RPN_R50_FPN, "rpn_r50_fpn_1x", "MSRA/R-50"),
        (originals.RETINANET_R50_FPN, "retinanet_r50_fpn_1x", "MSRA/R-50"),
        (originals.MASK_R50_FPN_GN, "mask_rcnn_r50_fpn_gn_1x", "47261647/R-50-GN"),
    ],
    ids=lambda value: value if str(value).endswith("1x") else "",
)
def test_an_original_file_imports_to_the_recipe_we_keep_of_it(
    text, ours, weights, import_text, tmp_path
):
    imported = import_text(text)
    (tmp_path / "new.yaml").write_text(imported.yaml())
    config = load_config(tmp_path / "new.yaml")
    ours = load_config(CONFIGS / "coco_2014" / f"{ours}.yaml")
    assert config.train.weights == f"{DETECTRON}/{weights}.pkl"
    # Names are the file's; ours leave the weights to the user, since no digest is published.
    train = config.train.model_copy(update={"weights": ours.train.weights})
    names = {"name": ours.name, "output": ours.output}
    assert config.model_copy(update={"train": train, **names}) == ours
    idle = {left.key for left in imported.not_carried if "without effect" not in left.why}
    assert idle <= {"TEST.IMS_PER_BATCH"}


def test_deformable_convolutions_are_carried(import_text):
    backbone = import_text(originals.FASTER_R50_FPN_MDCONV).config.model.backbone
    assert (backbone.deformable, backbone.deformable_stages) == ("v2", (3, 4, 5))


def test_the_box_head_of_convolutions_is_carried(import_text):
    text = originals.MASK_R50_FPN_GN.replace(
        '"FPN2MLPFeatureExtractor"', '"FPNXconv1fcFeatureExtractor"\n    CONV_HEAD_DIM: 128'
    )
    box = import_text(text).config.model.box
    assert (box.conv_layers, box.conv_channels, box.fc_layers) == (4, 128, 1)
    assert (box.norm, box.fc_norm) == ("group_norm", "none")


def test_a_silent_file_means_the_originals_defaults(import_text):
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
    """Another value of the same kind."""
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
def test_every_key_of_the_original_is_carried_or_named(key, import_text, imported_base):
    """In a model where it counts, another value gives another config, or is named."""
    base = originals.MASK_R50_FPN
    if "RETINANET" in key or key == "TEST.DETECTIONS_PER_IMG":
        base = originals.RETINANET_R50_FPN
    elif "KEYPOINT" in key:
        base = originals.KEYPOINT_R50_FPN
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
        return  # refused is not silent
    named = {left.key for left in after.not_carried}
    assert after.config != before.config or key in named


def test_what_is_not_carried_is_named_with_its_value_and_why(import_text):
    imported = import_text(originals.MASK_R50_FPN + "INPUT: {HUE: 0.1}\n")
    named = {left.key: left.value for left in imported.not_carried}
    assert named["INPUT.HUE"] == 0.1
    assert re.search(r"^#   INPUT.HUE = 0.1: \w+", imported.yaml(), re.MULTILINE)


def test_views_are_the_test_s_own_size_and_those_beside_it(import_text):
    rule = "ENABLED: True, SCALES: [400, 1200], MAX_SIZE: 2000, H_FLIP: True"
    imported = import_text(originals.MASK_R50_FPN + f"TEST: {{BBOX_AUG: {{{rule}}}}}\n")
    views = imported.config.model.test_augmentation
    assert (views.short_sides, views.long_side, views.flip) == ((800, 400, 1200), 2000, True)
    named = {left.key: left.value for left in imported.not_carried}
    assert named["TEST.BBOX_AUG.SCALE_H_FLIP"] is False
    assert named["INPUT.MAX_SIZE_TEST"] == 1333


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {RPN: {ANCHOR_SIZE: [1]}}", "ANCHOR_SIZE: unknown key; did you mean MODEL.RPN.A"),
        ("SOLVER: {LR: 1}", r"SOLVER.LR: unknown key"),
        ("SOLVER: {BASE_LR: fast}", "SOLVER.BASE_LR: must be a number; got 'fast'"),
        ("MODEL: {MASK_ON: 1}", "MODEL.MASK_ON: must be True or False; got 1"),
        ("SOLVER: 3", "SOLVER: must be a mapping; got 3"),
        ("SOLVER: {BASE_LR: 0}", "train.optimizer.lr: must be greater than 0; got 0"),
        ("[1, 2]", "must hold a mapping of settings; got list"),
        ("a: [", "is not valid YAML"),
        ("_BASE_: ../Base.yaml\nVERSION: 2", "a file of detectron2"),
        ("SOLVER: &a {BASE_LR: 1}\nTEST: *a", "aliases"),
        ("OUTPUT_DIR: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("[" * 3000, "nested too deeply"),
    ],
)
def test_a_file_that_is_not_the_originals_is_refused(text, message, import_text):
    with pytest.raises(ConfigError, match=message):
        import_text(text)


def test_every_bad_key_is_named_at_once(import_text):
    with pytest.raises(ConfigError) as error:
        import_text("SOLVER: {LR: 1, STEPS: 3}\nMODEL: {WEIGTH: x}")
    assert len(error.value.problems) == 3


def test_of_a_section_given_twice_the_last_counts_and_the_first_is_named(import_text):
    imported = import_text(
        "MODEL:\n  RESNETS: {STRIDE_IN_1X1: False}\n  RESNETS: {NUM_GROUPS: 32}\n"
    )
    assert imported.config.model.conventions.stride_in_1x1
    assert imported.not_carried[0].value == {"STRIDE_IN_1X1": False}


def test_texts_that_are_python_are_read_as_values_and_never_run(import_text, tmp_path):
    target = tmp_path / "made"
    text = f"SOLVER: {{STEPS: \"(2, 4)\"}}\nOUTPUT_DIR: \"open('{target}', 'w')\"\n"
    config = import_text(text).config
    assert config.train.schedule.milestones == (2, 4)
    assert not target.exists()


@pytest.mark.parametrize(
    ("train", "test", "source", "parts"),
    [
        ("voc_2007_train", "voc_2007_val", "voc", ["data/VOCdevkit/VOC2007"]),
        (
            "cityscapes_mask_instance_train",
            "cityscapes_mask_instance_val",
            "cityscapes",
            ["data/cityscapes"],
        ),
    ],
)
def test_names_of_data_sets_become_parts(train, test, source, parts, import_text):
    data = import_text(f"DATASETS: {{TRAIN: ['{train}'], TEST: ['{test}']}}").config.data
    assert data.source == source
    assert [part.root for part in data.train] == parts
    assert (data.train[0].set, data.val[0].set) == ("train", "val")


def test_unknown_data_sets_leave_a_place_to_fill_and_are_named(import_text):
    imported = import_text("DATASETS: {TRAIN: ['my parts'], TEST: ['my_val']}")
    assert imported.config.data.train[0].annotations == "data/my_parts/annotations.json"
    assert {left.key for left in imported.not_carried} == {"DATASETS.TRAIN", "DATASETS.TEST"}


def test_the_command_writes_a_file_that_loads_and_says_what_is_missing(tmp_path, capsys):
    (tmp_path / "old.yaml").write_text(originals.MASK_R50_FPN_GN)
    new = tmp_path / "new.yaml"
    assert main(["import", str(tmp_path / "old.yaml"), "--to", str(new)]) == 0
    assert isinstance(load_config(new), RunConfig)
    assert "TEST.IMS_PER_BATCH = 8" in capsys.readouterr().err


def test_the_command_fails_on_errors_and_leaves_the_original_alone(tmp_path, capsys):
    old = tmp_path / "old.yaml"
    assert main(["import", str(old)]) == 1
    assert "cannot read" in capsys.readouterr().err
    old.write_text("{}")
    assert main(["import", str(old), "--to", str(old)]) == 1
    assert old.read_text() == "{}"


def test_the_package_runs_as_a_command(tmp_path):
    (tmp_path / "old.yaml").write_text(originals.FASTER_R50_FPN)
    command = [sys.executable, "-m", "pipeline.config", "import", str(tmp_path / "old.yaml")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CONFIGS.parent)
    (tmp_path / "new.yaml").write_text(run.stdout)
    assert load_config(tmp_path / "new.yaml").model.mask is None
