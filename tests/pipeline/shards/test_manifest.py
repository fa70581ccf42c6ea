"""Manifests round-trip, and those of earlier schema versions still open."""

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.structures import Category
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.coco_ground_truth import coco_ground_truth
from pipeline.shards.decoding import Decoding
from pipeline.shards.image_contents import complete_manifest
from pipeline.shards.keypoints import KeypointSet
from pipeline.shards.manifest import SCHEMA_VERSION, read_manifest, write_manifest
from pipeline.shards.row import rows_from_arrow
from pipeline.shards.shard_file import SCHEMA, read_row_group
from pipeline.storage import StorageError
from tests.annotated_datasets import add_invalid_records, all_rows, draw_coco


def test_the_manifest_matches_the_files(tmp_path):
    shards = tmp_path / "shards"
    manifest = draw_coco(tmp_path / "source").write_shards(shards)
    assert read_manifest(str(shards)) == manifest
    assert manifest.categories[2] == Category(3, "triangle")
    for file in manifest.files:
        assert file.sha256 == hashlib.sha256((shards / file.name).read_bytes()).hexdigest()
        assert sum(file.row_groups) == file.rows == len(file.sizes) <= 5
        assert max(file.row_groups) <= 2
    assert sorted(path.name for path in shards.iterdir()) == sorted(
        ["manifest.json", "quarantine.jsonl", *(file.name for file in manifest.files)]
    )


def test_the_manifest_holds_keypoint_names_skeleton_and_categories(tmp_path):
    source = draw_coco(tmp_path / "source", keypoints=True)
    categories = source.document["categories"]
    for category in categories[2:]:
        del category["keypoints"], category["skeleton"]
    categories[1]["skeleton"] = [[1, 2], [4, 3]]
    manifest = source.write_shards(tmp_path / "shards")
    links = ((0, 1), (0, 2), (3, 1), (3, 2))
    names = ("top", "left_side", "right_side", "bottom")
    assert manifest.keypoints == KeypointSet(names, links, (1, 2))
    assert read_manifest(str(tmp_path / "shards")) == manifest
    renamed = replace(manifest, keypoints=replace(manifest.keypoints, names=names[::-1]))
    assert renamed.digest != manifest.digest
    assert "objects with any of the 4 keypoints" in manifest.summary()


def test_the_error_of_a_damaged_manifest_names_the_file(tmp_path):
    (tmp_path / "manifest.json").write_text('{"version": 1}')
    with pytest.raises(StorageError, match=r"manifest\.json: not a valid manifest"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("name", ["../other/shard.parquet", "/etc/passwd", "a\\b", "a\0b", ""])
def test_a_manifest_that_names_files_elsewhere_is_refused(tmp_path, name):
    manifest = draw_coco(tmp_path / "source").write_shards(tmp_path / "shards")
    files = (replace(manifest.files[0], name=name), *manifest.files[1:])
    write_manifest(str(tmp_path / "shards"), replace(manifest, files=files))
    with pytest.raises(StorageError, match=r"manifest\.json: .* not a name inside a folder"):
        read_manifest(str(tmp_path / "shards"))


LATER_COLUMNS = [
    *("keypoints", "orientation", "bit_depth", "source_image_id", "source_annotation_id"),
]


@pytest.fixture
def version_1_shards(shapes_images, tmp_path):
    """Shards of schema version 1: without later columns and the manifest's fields for them."""
    url = str(tmp_path / "old")
    annotations, images = shapes_images
    manifest = write_shards(read_coco(str(annotations), str(images)), url, 4, 2)
    files = []
    for file in manifest.files:
        path = Path(url) / file.name
        shard = pq.ParquetFile(path)
        groups = [shard.read_row_group(n) for n in range(shard.num_row_groups)]
        schema = pa.schema([field for field in SCHEMA if field.name not in LATER_COLUMNS])
        with pq.ParquetWriter(path, schema) as writer:
            for group in groups:
                writer.write_table(group.drop_columns(LATER_COLUMNS))
        files.append(replace(file, sha256=f"old {file.name}"))
    counts = {k: v for k, v in manifest.counts.items() if "keypoints" not in k and "point" not in k}
    old = {"version": 1, "source_digest": "old", "files": tuple(files), "counts": counts}
    write_manifest(url, replace(manifest, **old))
    document = json.loads((Path(url) / "manifest.json").read_text())
    for key in ("keypoints", "corrected", "decoding"):
        del document[key]
    for file in document["files"]:
        for key in ("labelled_points", "objects", "class_counts", "classes"):
            del file[key]
    (Path(url) / "manifest.json").write_text(json.dumps(document))
    return url


@pytest.mark.parametrize("key", ["corrected", "mended"])
def test_the_counts_of_corrected_records_are_read_under_their_former_name_too(
    tmp_path, shapes_shards, key
):
    manifest = replace(read_manifest(shapes_shards), corrected={"box clipped": 2})
    write_manifest(str(tmp_path), manifest)
    document = json.loads((tmp_path / "manifest.json").read_text())
    document[key] = document.pop("corrected")
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    assert read_manifest(str(tmp_path)) == manifest


def test_version_1_shards_are_readable(version_1_shards, shapes_shards):
    manifest = read_manifest(version_1_shards)
    assert (manifest.version, manifest.keypoints) == (1, None)
    assert manifest.decoding == Decoding("ignore", 16)
    assert "11 images" in manifest.summary()
    old, new = coco_ground_truth(version_1_shards), coco_ground_truth(shapes_shards)
    assert old["images"] == new["images"]
    rows = all_rows(version_1_shards)
    assert {row.keypoints for row in rows} == {None}
    assert {(row.orientation, row.bit_depth, row.source_image_id) for row in rows} == {
        (1, 16, None)
    }
    group = rows_from_arrow(read_row_group(version_1_shards, manifest.files[0].name, 1))
    assert [row.image_id for row in group] == [row.image_id for row in rows[2:4]]
    assert group[0].boxes.tolist() == rows[2].boxes.tolist()


def test_the_manifest_lists_the_objects_and_classes_of_each_image(tmp_path):
    source = draw_coco(tmp_path / "source")
    add_invalid_records(source)
    manifest = source.write_shards(tmp_path / "shards")
    rows = iter(all_rows(tmp_path / "shards"))
    for file in manifest.files:
        classes = iter(file.classes)
        for objects, class_count in zip(file.objects, file.class_counts, strict=True):
            row = next(rows)
            labels = row.labels[~row.iscrowd].tolist()
            assert objects == len(labels)
            assert list(itertools.islice(classes, class_count)) == sorted(set(labels))
        assert not list(classes)
    assert sum(sum(file.objects) for file in manifest.files) == manifest.counts["objects"]
    assert manifest.counts["crowd"] == 1


def test_contents_of_images_are_read_from_version_1_shards(version_1_shards, shapes_shards):
    manifest = read_manifest(version_1_shards)
    assert not any(file.has_contents for file in manifest.files)
    complete = complete_manifest(manifest, version_1_shards)
    assert complete.digest == manifest.digest
    for old, new in zip(complete.files, read_manifest(shapes_shards).files, strict=True):
        for field in ("objects", "class_counts", "classes"):
            assert getattr(old, field) == getattr(new, field)
    assert complete_manifest(complete, "/nowhere") is complete


def test_a_shard_whose_labels_cannot_be_read_is_named(version_1_shards):
    manifest = read_manifest(version_1_shards)
    name = manifest.files[1].name
    (Path(version_1_shards) / name).write_bytes(b"no parquet")
    with pytest.raises(StorageError, match=f"{name}: cannot be read"):
        complete_manifest(manifest, version_1_shards)


def test_existing_version_1_shards_are_written_again(version_1_shards, shapes_images):
    listing = read_coco(*map(str, shapes_images))
    manifest = write_shards(listing, version_1_shards, 4, 2)
    assert manifest.version == SCHEMA_VERSION
    assert read_manifest(version_1_shards) == manifest


def test_a_later_version_is_an_error(version_1_shards):
    write_manifest(version_1_shards, replace(read_manifest(version_1_shards), version=99))
    message = "unsupported schema version 99; this program reads versions 1, 2, 3"
    with pytest.raises(StorageError, match=message):
        read_manifest(version_1_shards)
