"""Missing annotations are named before anything starts; images may lie elsewhere."""

import pytest

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.ingest.source_check import check_sources
from pipeline.ingest.splits import prepare_split

SHAPES = {"source": "shapes", "shapes": {"images": 2, "val_images": 2, "side": 32}}


def config_of(tmp_path, **data):
    return RunConfig.model_validate({"output": str(tmp_path / "output"), "data": data})


def coco_part(tmp_path, name, **keys):
    path = tmp_path / f"{name}.json"
    path.write_text("{}")
    return {"annotations": str(path), "images": str(tmp_path / "on the workers"), **keys}


def test_annotations_that_exist_are_accepted_wherever_the_images_are(tmp_path):
    parts = [coco_part(tmp_path, "first"), coco_part(tmp_path, "second")]
    check_sources(config_of(tmp_path, source="coco", train=parts, val=parts[0]))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_annotations_of_any_split_that_do_not_exist_are_named(tmp_path, split):
    splits = {name: coco_part(tmp_path, name) for name in ("train", "val", "test")}
    (tmp_path / f"{split}.json").unlink()
    test = splits.pop("test")
    with pytest.raises(storage.MissingFileError, match=f"{split}.json: no such file or folder"):
        check_sources(config_of(tmp_path, source="coco", splits={"test": test}, **splits))


def test_a_list_of_image_ids_that_does_not_exist_is_named(tmp_path):
    part = coco_part(tmp_path, "train", image_ids=str(tmp_path / "minival.txt"))
    with pytest.raises(storage.MissingFileError, match=r"minival\.txt: no such file"):
        check_sources(config_of(tmp_path, source="coco", train=part, val=part))


def test_a_folder_of_voc_that_does_not_exist_is_named(tmp_path):
    part = {"root": str(tmp_path / "VOC2007"), "set": "train"}
    with pytest.raises(storage.MissingFileError, match=r"VOC2007: no such file or folder"):
        check_sources(config_of(tmp_path, source="voc", train=part, val=part))


def test_a_drawn_dataset_needs_nothing(tmp_path):
    check_sources(config_of(tmp_path, **SHAPES))


@pytest.mark.s3
def test_sources_in_a_bucket_are_found(s3, tmp_path):
    url = s3("sources")
    part = {"annotations": f"{url}/train.json", "images": f"{url}/images"}
    config = config_of(tmp_path, source="coco", train=part, val=part)
    with pytest.raises(storage.MissingFileError, match=r"train\.json: no such file"):
        check_sources(config)
    storage.write_bytes(f"{url}/train.json", b"{}")
    check_sources(config)


def test_existing_shards_are_found(tmp_path):
    drawn = config_of(tmp_path, **SHAPES)
    part = {"shards": str(tmp_path / "output" / "shards" / "train")}
    merged = config_of(tmp_path / "merged", source="shards", train=part, val=part)
    with pytest.raises(storage.MissingFileError, match="no manifest; run maskrcnn-ray prepare_sha"):
        check_sources(merged)
    prepare_split(drawn, "train")
    check_sources(merged)


def test_shards_that_are_only_read_are_found(tmp_path):
    shards = str(tmp_path / "output" / "shards" / "train")
    config = config_of(tmp_path, source="coco", train_shards=shards, val_shards=shards)
    with pytest.raises(storage.MissingFileError, match="no manifest"):
        check_sources(config)
    prepare_split(config_of(tmp_path, **SHAPES), "train")
    check_sources(config)
