"""Each data source has its own keys, and the error names a wrong one."""

import pytest
import yaml

from model.config.settings import ConfigError, check_settings
from pipeline.config import RunConfig, load_config, to_yaml

COCO = {"annotations": "/a.json", "images": "/i"}
VOC = {"root": "/VOCdevkit/VOC2012/", "set": "trainval"}
CITYSCAPES = {"root": "/cityscapes", "set": "train"}


def check(**data):
    return check_settings(RunConfig, {"data": data}).data


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("coco", COCO),
        ("coco", COCO | {"image_ids": "/ids.txt"}),
        ("voc", VOC),
        ("voc", VOC | {"year": 2007, "masks": True}),
        ("cityscapes", CITYSCAPES),
    ],
)
def test_a_split_is_one_part_or_a_list_of_them(source, part):
    one = check(source=source, train=part, val=[part, part])
    assert one.train * 2 == one.val
    assert one.parts("train")[0].model_dump(exclude_defaults=True) == part


def test_null_means_no_split_and_round_trips_through_yaml():
    tree = {"data": {"source": "coco", "train": None, "train_shards": "/s", "val": COCO}}
    config = check_settings(RunConfig, tree)
    assert config.data.train == ()
    assert check_settings(RunConfig, yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize(
    ("source", "part", "problem"),
    [
        ("coco", {}, r"data\.val needs annotations and images"),
        ("coco", {"annotations": "/a"}, r"data\.val needs images"),
        ("coco", COCO | {"set": "x"}, r"data\.val takes annotations, images, image_ids, not set"),
        ("voc", COCO | VOC, r"data\.val takes root, set, year, masks, not annotations, images"),
        ("voc", {"root": "/x", "set": "t"}, r"needs year, because /x does not end in one"),
        ("voc", VOC | {"set": "../x"}, r"data\.val\.0\.set: .*pattern"),
        ("voc", VOC | {"sets": "x"}, r"data\.val\.0\.sets: unknown key; did you mean data.val.set"),
        ("cityscapes", CITYSCAPES | {"masks": True}, r"data\.val takes root, set, not masks"),
        ("voc", [VOC, {"set": "x"}], r"data\.val\.1 needs root"),
        ("voc", "/VOC2012", r"data\.val: must be a valid (array|tuple); got '/VOC2012'"),
        ("cityscapes", None, r"data\.val \(root and set\) or data\.val_shards must be given"),
    ],
)
def test_the_error_names_a_key_that_is_wrong_for_the_source(source, part, problem):
    valid = {"coco": COCO, "voc": VOC, "cityscapes": CITYSCAPES}[source]
    with pytest.raises(ConfigError, match=problem):
        check(source=source, train=valid, val=part)


@pytest.mark.parametrize(
    ("root", "year"),
    [("/VOC2012", 2012), ("s3://b/VOC2007/", 2007), ("/a12007", None), ("/VOC2007x", None)],
)
def test_the_year_is_at_the_end_of_the_root(root, year):
    part = VOC | {"root": root}
    if year is None:
        with pytest.raises(ConfigError, match="needs year"):
            check(source="voc", train=part, val=part)
        assert check(source="voc", train=part | {"year": 2010}, val=VOC).train[0].challenge_year
    else:
        assert check(source="voc", train=part, val=VOC).train[0].challenge_year == year


def test_locations_in_parts_are_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "data: {source: voc, train: [{root: VOC2007, set: train}], val: {root: V, set: v}}"
    (tmp_path / "c.yaml").write_text(text)
    data = load_config("c.yaml", ["data.val.year=2012", "data.val.root=W"]).data
    assert data.train[0].root == str(tmp_path / "VOC2007")
    assert data.val[0].root == str(tmp_path / "W")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (1.5, 1.0)}, "fractions up to 1 with type=relative_range"),
        ({"type": "absolute", "size": (0.5, 3.0)}, "whole pixels"),
        ({"type": "absolute_range", "size": (5.0, 3.0)}, "the smallest and the largest"),
        ({"size": (0.0, 1.0)}, "greater than 0"),
    ],
)
def test_sizes_of_a_random_crop_that_do_not_fit_its_type_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        check(source="coco", train=COCO, val=COCO, random_crop=settings)
