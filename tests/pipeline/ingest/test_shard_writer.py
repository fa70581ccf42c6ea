"""Shards are kept until their source changes, and a killed job resumes."""

import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from pipeline import storage
from pipeline.ingest.coco import read_coco
from pipeline.ingest.merge import merge_shards
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.manifest import read_manifest, write_manifest
from tests.annotated_datasets import add_invalid_records, all_rows, draw_coco


@pytest.fixture
def source(tmp_path):
    return draw_coco(tmp_path / "source")


def modification_times(paths):
    return {path: path.stat().st_mtime_ns for path in paths}


def test_a_second_call_writes_nothing_and_returns_the_existing_manifest(source, tmp_path):
    shards = tmp_path / "shards"
    manifest = source.write_shards(shards)
    before = modification_times(shards.iterdir())
    assert source.write_shards(shards) == manifest
    assert modification_times(shards.iterdir()) == before


def test_a_manifest_without_the_classes_of_images_gets_them_and_the_shards_are_kept(
    source, tmp_path
):
    shards = tmp_path / "shards"
    manifest = source.write_shards(shards)
    none = {"objects": (), "class_counts": (), "classes": ()}
    files = tuple(replace(file, **none) for file in manifest.files)
    write_manifest(str(shards), replace(manifest, files=files))
    before = modification_times(shards.glob("*.parquet"))
    assert source.write_shards(shards) == manifest == read_manifest(str(shards))
    assert modification_times(before) == before


@pytest.mark.parametrize("change", ["annotation", "image", "same size", "layout", "lost shard"])
def test_shards_are_written_again_after_a_change(source, tmp_path, change):
    shards = tmp_path / "shards"
    first = source.write_shards(shards)
    sizes = {}
    if change == "annotation":
        source.document["annotations"][0]["bbox"][0] += 1
    elif change == "image":
        image = source.images / "000001.jpg"
        image.write_bytes(image.read_bytes() + b"\0")
    elif change == "same size":
        image = source.images / "000001.jpg"
        data = bytearray(image.read_bytes())
        data[-40] ^= 1
        image.write_bytes(data)
    elif change == "layout":
        sizes = {"rows_per_shard": 12}
    else:
        (shards / first.files[0].name).unlink()
    second = source.write_shards(shards, **sizes)
    assert (second.digest == first.digest) == (change == "lost shard")
    assert len(all_rows(shards)) == 12
    names = [path.name for path in shards.glob("*.parquet")]
    assert sorted(names) == [file.name for file in second.files]


def test_the_digest_does_not_depend_on_the_folder(source, tmp_path):
    first, second = (source.write_shards(tmp_path / name) for name in "ab")
    assert first.digest == second.digest


def test_a_dataset_without_a_valid_image_is_an_error(source, tmp_path):
    for path in source.images.iterdir():
        path.unlink()
    with pytest.raises(storage.StorageError, match="none of the 12 images"):
        source.write_shards(tmp_path / "shards")


KILLED_AFTER_TWO_SHARDS = """
import os, signal, sys
from pipeline.ingest import shard_writer
from pipeline.ingest.coco import read_coco
from pipeline.ingest.merge import merge_shards

write_shard, written = shard_writer.write_shard, []

def write_two(task):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(task.name)
    return write_shard(task)

shard_writer.write_shard = write_two
listing = read_coco(*sys.argv[1:3])
shard_writer.write_shards(listing, sys.argv[3], rows_per_shard=5, rows_per_group=2)
"""


def test_a_killed_job_resumes_after_its_last_finished_shard(source, tmp_path):
    shards = tmp_path / "shards"
    locations = map(str, (source.annotations, source.images, shards))
    killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_TWO_SHARDS, *locations])
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(storage.MissingFileError):
        read_manifest(str(shards))
    finished = modification_times(shards.glob("*.parquet"))
    assert len(finished) == 2

    listing = read_coco(str(source.annotations), str(source.images))
    manifest = write_shards(listing, str(shards), rows_per_shard=5, rows_per_group=2)
    assert modification_times(finished) == finished
    assert manifest.counts["images"] == manifest.rows == 12
    assert not (shards / "parts").exists()


@pytest.mark.s3
def test_images_in_a_bucket_that_are_redrawn_at_the_same_size_are_noticed(s3, source, tmp_path):
    bucket = s3("redrawn")
    annotations, images, shards = (storage.join(bucket, name) for name in ("a.json", "images", "s"))
    storage.upload_folder(source.images, images)
    storage.write_json(annotations, source.document)
    first = write_shards(read_coco(annotations, images), shards, 12, 12)
    assert write_shards(read_coco(annotations, images), shards, 12, 12) == first
    name = storage.join(images, "000001.jpg")
    data = bytearray(storage.read_bytes(name))
    data[-40] ^= 1
    storage.write_bytes(name, bytes(data))
    assert write_shards(read_coco(annotations, images), shards, 12, 12).digest != first.digest


@pytest.mark.s3
@pytest.mark.ray
def test_ray_tasks_write_the_same_shards_to_a_bucket(ray_cluster, s3, source, tmp_path):
    add_invalid_records(source)
    bucket = s3("shards")
    annotations, images, shards = (storage.join(bucket, name) for name in ("a.json", "images", "s"))
    storage.upload_folder(source.images, images)
    storage.write_json(annotations, source.document)
    remote = write_shards(read_coco(annotations, images), shards, 5, 2)
    assert write_shards(read_coco(annotations, images), shards, 5, 2) == read_manifest(shards)
    assert len(all_rows(shards)) == remote.rows == 9
    local = source.write_shards(tmp_path / "local")
    assert (remote.digest, remote.counts) == (local.digest, local.counts)


@pytest.mark.ray
def test_ray_tasks_find_what_relative_paths_name(ray_cluster, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    annotations, images = (
        str(path.relative_to(tmp_path)) for path in (source.annotations, source.images)
    )
    manifest = write_shards(read_coco(annotations, images), "shards", 5, 2)
    merged = merge_shards(["shards"], "merged", 9, 3)
    assert manifest.rows == merged.rows == len(all_rows(tmp_path / "merged")) == 12
