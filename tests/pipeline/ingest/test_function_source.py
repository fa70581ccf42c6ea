"""Annotations from a user's function: COCO documents and detectron2's dataset dicts."""

import json
import re
import sys
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import yaml

from model.config.settings import ConfigError
from model.config.user_functions import find_function
from pipeline import storage
from pipeline.config import RunConfig, load_config
from pipeline.ingest.detectron2_dicts import coco_document
from pipeline.ingest.function_source import read_function
from pipeline.ingest.splits import prepare_split
from tests.annotated_datasets import all_rows, draw_coco
from tests.conftest import ROOT

MODULE = """
import json
import numpy as np

def read(path):
    return json.load(open(path))

def arrays(path):
    document = read(path)
    for annotation in document["annotations"]:
        annotation["bbox"] = np.array(annotation["bbox"], np.float32)
        annotation["category_id"] = np.int64(annotation["category_id"])
    return document

def nothing():
    return None

def broken():
    raise KeyError("no such table")

def endless(**_):
    return {"images": [], "annotations": [{1, 2}], "categories": []}

def quits():
    raise SystemExit(0)

number = 7
"""


class BoxMode(IntEnum):
    """As in detectron2.structures."""

    XYXY_ABS = 0
    XYWH_ABS = 1
    XYWHA_ABS = 4


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module in the current folder, which is not on the path of a command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", ".")])
    Path("own_data.py").write_text(MODULE)
    others = {
        "needs_more": "import no_such_package",
        "not_python": "def f(:",
        "ends": "raise SystemExit(3)",
        "test": "def read(): return 1",
    }
    for name, text in others.items():
        Path(f"{name}.py").write_text(text)
    Path("model").mkdir()
    Path("model/mine.py").write_text("def read(): return 1")
    yield "own_data"
    for name in ("own_data", *others):
        sys.modules.pop(name, None)


@pytest.fixture
def drawn(tmp_path):
    return draw_coco(tmp_path / "drawn", keypoints=True)


def config_of(tmp_path, drawn, **part):
    part = {"images": str(drawn.images), **part}
    data = {"source": "function", "train": part, "val": part, "rows_per_shard": 5}
    return RunConfig.model_validate({"output": str(tmp_path / "output"), "data": data})


@pytest.mark.parametrize("function", ["read", "arrays"])
def test_a_coco_document_has_the_rows_of_its_file(own_module, drawn, tmp_path, function):
    arguments = {"path": str(drawn.annotations)}
    config = config_of(tmp_path, drawn, function=f"own_data:{function}", arguments=arguments)
    manifest = prepare_split(config, "train")
    reference = drawn.write_shards(tmp_path / "reference")
    assert (manifest.rows, manifest.counts) == (12, reference.counts)
    rows = all_rows(tmp_path / "output" / "shards" / "train")
    assert [row.file_name for row in rows] == [
        row.file_name for row in all_rows(tmp_path / "reference")
    ]
    if function == "read":
        assert manifest.categories == reference.categories
        assert prepare_split(config, "train") == manifest  # the shards are kept


def test_dataset_dicts_of_detectron2_have_the_rows_of_the_coco_file(drawn, tmp_path, monkeypatch):
    document = drawn.document
    classes = sorted(document["categories"], key=lambda each: each["id"])
    labels = {category["id"]: label for label, category in enumerate(classes)}
    dicts = []
    for number, image in enumerate(document["images"]):
        own = [a for a in document["annotations"] if a["image_id"] == image["id"]]
        x, y, width, height = np.array([a["bbox"] for a in own], float).reshape(-1, 4).T
        boxes = np.stack([x, y, x + width, y + height], axis=1)
        is_corners = number % 2
        dicts.append(
            {
                "file_name": str(drawn.images / image["file_name"]),
                "image_id": f"image-{number}",
                **{"height": image["height"], "width": image["width"]},
                "annotations": [
                    {
                        "bbox": boxes[n] if is_corners else annotation["bbox"],
                        "bbox_mode": BoxMode.XYXY_ABS if is_corners else BoxMode.XYWH_ABS,
                        "category_id": labels[annotation["category_id"]],
                        "segmentation": annotation["segmentation"],
                        "keypoints": [
                            value if n % 3 == 2 else value + 0.5
                            for n, value in enumerate(annotation["keypoints"])
                        ],
                    }
                    for n, annotation in enumerate(own)
                ],
            }
        )
    monkeypatch.setitem(sys.modules, "own_dicts", type(sys)("own_dicts"))
    sys.modules["own_dicts"].load = lambda: (dicts, classes)
    config = config_of(tmp_path, drawn, function="own_dicts:load")
    manifest = prepare_split(config, "train")
    reference = drawn.write_shards(tmp_path / "reference")
    assert (manifest.reasons, manifest.counts) == ({}, reference.counts)
    assert manifest.keypoints == reference.keypoints
    found = {row.file_name: row for row in all_rows(tmp_path / "output" / "shards" / "train")}
    for expected in all_rows(tmp_path / "reference"):
        row = found[expected.file_name]
        np.testing.assert_equal(row.labels, expected.labels)
        np.testing.assert_allclose(row.boxes, expected.boxes, atol=1e-4)
        for kind in ("vertices", "object_offsets", "keypoints"):
            np.testing.assert_equal(getattr(row, kind), getattr(expected, kind))


def test_names_make_classes_without_keypoints():
    document = coco_document([{"file_name": Path("a.jpg"), "annotations": []}], ["nut", "bolt"])
    assert document["categories"] == [{"name": "nut", "id": 1}, {"name": "bolt", "id": 2}]
    assert document["images"] == [{"id": 0, "file_name": "a.jpg"}]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"category_id": 2, "bbox": [0, 0, 1, 1], "bbox_mode": 0}, "category_id 2 has no class"),
        ({"category_id": 0, "bbox": [0, 0, 1, 1]}, "annotation 0 of a.jpg has no bbox_mode"),
        ({"category_id": 0, "bbox_mode": 0}, "annotation 0 of a.jpg has no bbox"),
        ({"category_id": 0, "bbox": [0, 0, 1, 1], "bbox_mode": BoxMode.XYWHA_ABS}, "bbox_mode"),
        ({"category_id": 0, "bbox": [0, 0, 1], "bbox_mode": 0}, "got 3 numbers"),
    ],
)
def test_dataset_dicts_that_cannot_be_converted_are_refused(annotation, message):
    with pytest.raises(ValueError, match=message):
        coco_document([{"file_name": "a.jpg", "annotations": [annotation]}], ["nut", "bolt"])


@pytest.mark.parametrize(
    ("dicts", "classes", "message"),
    [
        ([None], ["a"], "dataset dict 0 is no dict but a NoneType"),
        ([{"file_name": "a.jpg", "annotations": [3]}], ["a"], "annotation 0 of a.jpg is no dict"),
        ([], "abc", "the classes must be a list, in order; got str"),
        ([], {"a", "b"}, "the classes must be a list, in order; got set"),
    ],
)
def test_what_is_no_dataset_dict_is_named(dicts, classes, message):
    with pytest.raises(TypeError, match=message):
        coco_document(dicts, classes)


def test_the_recipe_of_the_readme_replaces_the_files_of_its_base():
    text = (ROOT / "README.md").read_text()
    [block] = [
        each for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "my_data:" in each
    ]
    changes = yaml.safe_load(block)["data"]
    config = load_config(
        ROOT / "configs" / "my_data.yaml",
        [f"data.{key}={json.dumps(value)}" for key, value in changes.items()],
    )
    assert config.data.train[0].function == "my_data:read"
    assert config.data.val[0].arguments == {"split": "val"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_data:broken", r"own_data:broken failed: KeyError: 'no such table' \(its traceback"),
        ("own_data:quits", r"own_data:quits failed: SystemExit: 0 \(its traceback"),
        (
            "needs_more:read",
            r"needs_more:read cannot be imported: ModuleNotFoundError: .*no_such_pa",
        ),
        ("not_python:f", "not_python:f cannot be imported: SyntaxError"),
        ("ends:f", "ends:f cannot be imported: SystemExit: 3"),
        ("own_data:nothing", "own_data:nothing returned a NoneType, not a COCO document"),
        ("own_data:endless", "returned what JSON cannot hold: a value of type set"),
    ],
)
def test_a_function_that_fails_is_named(own_module, name, message, caplog):
    with pytest.raises(storage.StorageError, match=message):
        read_function(name, {}, "/images")
    if "broken" in name:
        assert 'raise KeyError("no such table")' in caplog.text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:read", "there is no module no_such_module in .* or installed"),
        ("own_data:missing", r"own_data \(.*own_data\.py\) has no function missing"),
        ("own_data:number", r"own_data \(.*own_data\.py\) has no function number"),
        ("json:read", r"json \(.*json/__init__\.py\) has no function read"),
        ("model.mine:read", r"there is no module model\.mine in the package model \(/.*/model\)"),
    ],
)
def test_a_function_that_does_not_exist_is_a_wrong_setting(own_module, name, message):
    with pytest.raises(ConfigError, match=message):
        find_function(name, "data")


def test_the_current_folder_comes_before_the_library(own_module):
    sys.modules.pop("test", None)
    assert find_function("test:read", "data")() == 1


def test_an_image_outside_of_the_folder_is_refused(own_module, drawn, tmp_path):
    document = {**drawn.document, "images": [{"id": 1, "file_name": "/elsewhere/a.jpg"}]}
    Path("document.json").write_text(json.dumps(document))
    with pytest.raises(storage.StorageError, match=r"/elsewhere/a\.jpg is not below /images"):
        read_function("own_data:read", {"path": "document.json"}, "/images")


@pytest.mark.parametrize("name", ["own_data", "own_data.read", "own data:read", ":read"])
def test_a_name_without_module_and_function_is_a_wrong_setting(tmp_path, drawn, name):
    with pytest.raises(ValueError, match="function"):
        config_of(tmp_path, drawn, function=name)
