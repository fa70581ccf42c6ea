"""COCO results of an input that names its classes have its ids of classes and images."""

import json
import logging
from pathlib import Path

import pytest
from pycocotools.coco import COCO

from model.config.settings import ConfigError
from pipeline import storage
from pipeline.config import InferConfig
from pipeline.infer.detection_files import read_detection_rows
from pipeline.infer.inference import run_inference
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shard_writer import write_shards


@pytest.fixture
def document(shapes_images, tmp_path):
    """The annotations of the drawn images, with other ids and one class less."""
    document = json.loads(shapes_images[0].read_text())
    dropped = document["categories"].pop()
    names = {each["id"]: each["name"] for each in document["categories"]}
    document["categories"] = [
        {**each, "id": 1000 - each["id"]} for each in document["categories"][::-1]
    ]
    document["annotations"] = [
        {**each, "category_id": 1000 - each["category_id"]}
        for each in document["annotations"]
        if each["category_id"] != dropped["id"]
    ]
    for image in document["images"]:
        image["id"] += 500
    for annotation in document["annotations"]:
        annotation["image_id"] += 500
    path = tmp_path / "dataset" / "annotations.json"
    storage.write_json(str(path), document)
    return str(path), {1000 - number: name for number, name in names.items()}


@pytest.fixture(params=["coco", "shards"])
def inputs(request, document, shapes_images, tmp_path):
    url, _ = document
    if request.param == "coco":
        return {"inputs": url, "images": str(shapes_images[1])}
    write_shards(read_coco(url, str(shapes_images[1])), str(tmp_path / "shards"), 4, 4)
    return {"inputs": str(tmp_path / "shards")}


@pytest.fixture
def infer(run_config, tiny_checkpoint, monkeypatch):
    """Run inference in this process."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(**settings):
        values = {"model": str(tiny_checkpoint), "coco_results": True, "pictures": 1} | settings
        config = run_config.model_copy(update={"infer": InferConfig(**values)})
        return run_inference(config)

    return run


def test_results_have_the_ids_of_the_dataset(infer, inputs, document, caplog):
    annotations, names = document
    result = infer(**inputs)
    folder = Path(result.output_url)
    rows = [
        row for path in sorted(folder.glob("*.parquet")) for row in read_detection_rows(str(path))
    ]
    expected = [
        (row.image_id, name, score)
        for row in rows
        for name, score in zip(row.category_names, row.scores, strict=True)
        if name in names.values()
    ]
    results = json.loads((folder / "coco_results.json").read_text())
    found = [(each["image_id"], names[each["category_id"]], each["score"]) for each in results]
    assert found == expected
    assert 0 < len(found) < result.objects
    assert f"{result.objects - len(found)} are left out" in caplog.text
    dataset = COCO(annotations)
    assert {row.image_id for row in rows} == set(dataset.getImgIds())
    dataset.loadRes(str(folder / "coco_results.json"))


def test_a_dataset_without_a_class_of_the_model_is_refused_before_predicting(
    infer, inputs, document, tiny_checkpoint, run_config, caplog
):
    caplog.set_level(logging.INFO)
    url, _ = document
    foreign = json.loads(Path(url).read_text())
    for category in foreign["categories"]:
        category["name"] = f"foreign {category['name']}"
    storage.write_json(url, foreign)
    if "images" not in inputs:
        pytest.skip("shards have the classes that they were written with")
    with pytest.raises(
        ConfigError, match=r"classes of the detector and of .* no class has the same"
    ):
        infer(**inputs)
    assert not storage.list_files(run_config.output)
    assert infer(**inputs, coco_results=False).images == 11


def test_without_classes_in_the_input_the_ids_are_those_of_the_model(
    infer, document, shapes_images
):
    url, _ = document
    images = json.loads(Path(url).read_text())["images"]
    storage.write_json(url, {"images": images})
    result = infer(inputs=url, images=str(shapes_images[1]))
    results = json.loads((Path(result.output_url) / "coco_results.json").read_text())
    assert len(results) == result.objects
    assert {each["category_id"] for each in results} <= {10, 20, 30, 40, 50}
    assert {each["image_id"] for each in results} <= {image["id"] for image in images}


def test_rows_name_the_model_its_weights_and_the_version_of_the_input(
    infer, inputs, tiny_checkpoint
):
    result = infer(**inputs)
    paths = sorted(Path(result.output_url).glob("*.parquet"))
    rows = [row for path in paths for row in read_detection_rows(str(path))]
    assert {row.model for row in rows} == {str(tiny_checkpoint)} == {result.model}
    [digest] = {row.model_digest for row in rows}
    assert digest == result.model_digest
    assert len(digest) == 64
    if "images" in inputs:
        for row in rows:
            status = (Path(inputs["images"]) / row.file_name).stat()
            assert row.input_version == f"{status.st_size} {status.st_mtime_ns}"
    else:
        assert {len(row.input_version) for row in rows} == {64}  # the SHA-256 of the shard


def test_outputs_of_an_earlier_version_are_named_and_written_again(infer, inputs, caplog):
    """An entry without the new fields, whose key is that of the rows of then."""
    result = infer(**inputs)
    entries = sorted((Path(result.output_url) / "_done").iterdir())
    before = {path.name: path.stat().st_mtime_ns for path in entries}
    for path in entries:
        entry = json.loads(path.read_text())
        new = ("schema", "model_digest", "score_threshold", "precision", "source_ids")
        old = {key: value for key, value in entry.items() if key not in (*new, "has_given_ids")}
        path.write_text(json.dumps(old | {"key": "0" * 64}))
    again = infer(**inputs)
    assert (again.shards_done, again.images) == (len(entries), 11)
    assert f"{len(entries)} outputs in" in caplog.text
    assert "written by an earlier version, whose rows lack the columns model" in caplog.text
    assert before.keys() == {path.name for path in (Path(again.output_url) / "_done").iterdir()}
    assert infer(**inputs).shards_skipped == len(entries)
