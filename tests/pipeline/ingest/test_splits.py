"""The data of a configuration, drawn or read, becomes shards below its output."""

import json

import pytest

from pipeline import storage
from pipeline.config import DataConfig, RunConfig, ShapesConfig
from pipeline.ingest.splits import prepare_split
from pipeline.output_layout import split_shards_url
from tests.annotated_datasets import all_rows

SHAPES = DataConfig(shapes=ShapesConfig(images=6, val_images=4, side=32), rows_per_shard=4)


def encoded_images(shards_url):
    return {row.image_bytes for row in all_rows(shards_url)}


@pytest.mark.parametrize("location", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_drawn_splits_share_no_image_and_are_kept(request, tmp_path, location):
    output = str(tmp_path) if location == "local" else request.getfixturevalue("s3")("splits")
    config = RunConfig(output=output, data=SHAPES)
    train, val = prepare_split(config, "train"), prepare_split(config, "val")
    assert (train.rows, val.rows) == (6, 4)
    urls = [split_shards_url(config, split) for split in ("train", "val")]
    assert urls == [storage.join(output, "shards", split) for split in ("train", "val")]
    assert not encoded_images(urls[0]) & encoded_images(urls[1])
    assert prepare_split(config, "train") == train
    document = storage.read_json(storage.join(output, "shapes", "train", "annotations.json"))
    assert len(document["images"]) == 6


def test_another_seed_draws_other_images(tmp_path):
    configs = [RunConfig(output=str(tmp_path / str(n)), seed=n, data=SHAPES) for n in (0, 1)]
    for config in configs:
        prepare_split(config, "val")
    first, second = (encoded_images(split_shards_url(config, "val")) for config in configs)
    assert not first & second


def test_shards_given_without_a_source_are_read(tmp_path):
    drawn = prepare_split(RunConfig(output=str(tmp_path), data=SHAPES), "train")
    shards = str(tmp_path / "shards" / "train")
    given = DataConfig(source="coco", train_shards=shards, val_shards=shards)
    assert prepare_split(RunConfig(output="/nowhere", data=given), "val") == drawn


def test_a_coco_source_is_written_to_the_output(tmp_path):
    prepare_split(RunConfig(output=str(tmp_path), data=SHAPES), "train")
    drawn = tmp_path / "shapes" / "train"
    split = {"annotations": str(drawn / "annotations.json"), "images": str(drawn / "images")}
    config = RunConfig.model_validate(
        {
            "output": str(tmp_path / "other"),
            "data": {"source": "coco", "train": split, "val": split, "rows_per_shard": 2},
        }
    )
    manifest = prepare_split(config, "train")
    assert len(manifest.files) == 3
    listed = json.loads((drawn / "annotations.json").read_text())["images"]
    assert manifest.rows == len(listed)


def test_drawn_shapes_have_keypoints_if_configured(tmp_path):
    with_keypoints = SHAPES.shapes.model_copy(update={"keypoints": True})
    data = SHAPES.model_copy(update={"shapes": with_keypoints})
    manifest = prepare_split(RunConfig(output=str(tmp_path), data=data), "val")
    assert manifest.keypoints.names == ("top", "left_side", "right_side", "bottom")
    assert manifest.counts["with_keypoints"] == manifest.counts["objects"] > 0
