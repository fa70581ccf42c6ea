"""Damaged shards are found, with file, row and reason, and intact ones are not touched."""

import hashlib
import io
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import storage
from pipeline.ingest.shard_check import DamagedShardsError, ShardCheck, check_shard, check_shards
from pipeline.shards.manifest import read_manifest, write_manifest
from pipeline.shards.shard_file import SCHEMA
from tests.annotated_datasets import CROWD, draw_coco


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """12 drawn images with keypoints and a crowd region, in three shards."""
    folder = tmp_path_factory.mktemp("check")
    source = draw_coco(folder / "source", keypoints=True)
    source.document["annotations"][0] |= {
        "segmentation": CROWD,
        "iscrowd": 1,
        "bbox": [20, 0, 12, 48],
    }
    source.write_shards(folder / "shards")
    return folder / "shards"


@pytest.fixture
def shards(intact, tmp_path):
    shutil.copytree(intact, tmp_path / "shards")
    return tmp_path / "shards"


def damages(shards):
    """Return (file, row, reason) of everything that is wrong."""
    manifest = read_manifest(str(shards))
    points = len(manifest.keypoints.names)
    return [
        (damage.file, damage.row, damage.reason)
        for file in manifest.files
        for damage in check_shard(ShardCheck(str(shards), file, 5, points))
    ]


def rewrite(shards, index, change, keep_digest=False):
    """Change the rows of a shard; unless told, the manifest gets the digest of the result."""
    manifest = read_manifest(str(shards))
    file = manifest.files[index]
    path = shards / file.name
    with pq.ParquetFile(path) as shard:
        groups = [shard.read_row_group(n).to_pylist() for n in range(shard.num_row_groups)]
    rows = [row for group in groups for row in group]
    change(rows)
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for group in groups:
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
    if not keep_digest:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files = list(manifest.files)
        files[index] = replace(file, sha256=digest)
        write_manifest(str(shards), replace(manifest, files=tuple(files)))
    return file.name


def test_intact_shards_have_no_damage_and_are_not_written(shards, caplog):
    before = {path: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert damages(shards) == []
    [manifest] = check_shards([str(shards)])
    assert manifest == read_manifest(str(shards))
    assert not caplog.records
    assert {path: path.stat().st_mtime_ns for path in shards.iterdir()} == before


def png_of(size):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_bytes": b"\xff\xd8 no image"}, "image cannot be decoded: "),
        ({"image_bytes": b""}, "image cannot be decoded: "),
        ({"image_bytes": None}, "not a row of a shard"),
        ({"image_bytes": png_of((48, 40))}, "the image is 40x48, its row says 48x48"),
        ({"height": 47}, "its size is (47, 48), the manifest says (48, 48)"),
        ({"labels": [9]}, "labels [9] are not all in 1 to 5"),
        ({"labels": [1, 2]}, "2 labels, but {"),
        ({"boxes": [[5.0, 5.0, 60.0, 9.0]]}, "object 0: box [5.0, 5.0, 60.0, 9.0] is empty or"),
        ({"boxes": [[5.0, 5.0, 5.0, 9.0]]}, "object 0: box [5.0, 5.0, 5.0, 9.0] is empty or"),
        ({"boxes": [[float("nan"), 5.0, 9.0, 9.0]]}, "object 0: box [nan, 5.0, 9.0, 9.0]"),
        ({"rle": ["4"]}, "object 0: run-length mask does not cover its image"),
        ({"rle": ["o"]}, "object 0: run-length mask is truncated"),
        ({"polygons": [[[1.0, 1.0, 2.0, 2.0]]]}, "object 0: a polygon has fewer than 3 vertices"),
        ({"polygons": [[[1.0, 1.0, 2.0, 2.0, float("inf"), 3.0]]]}, "object 0: a polygon has"),
        ({"keypoints": [[1.0, 1.0, 2.0]]}, "1 keypoints per object instead of 4"),
    ],
)
def test_a_damaged_row_is_named_with_its_image_and_the_reason(shards, change, reason):
    one_object = {
        "boxes": [[5.0, 5.0, 9.0, 9.0]],
        "labels": [1],
        "polygons": [[[5.0, 5.0, 9.0, 5.0, 9.0, 9.0]]],
        "rle": [None],
        "iscrowd": [False],
        "area": [8.0],
        "annotation_id": [1],
        "keypoints": [[1.0, 1.0, 2.0] * 4],
    }

    def damage(rows):
        rows[3] |= one_object | change
        rows[4] |= one_object  # intact

    name = rewrite(shards, 1, damage)
    found = damages(shards)
    assert {each[:2] for each in found} == {(name, 3)}
    assert any(text.startswith(reason) for _, _, text in found)
    if "image_bytes" not in change:
        assert all(text.endswith("(image 6, 000006.jpg)") for _, _, text in found)


def test_a_flipped_byte_inside_a_jpeg_is_found(shards):
    """Its digest differs; where the decoder notices, the row is named too."""
    path = shards / read_manifest(str(shards)).files[0].name
    data = bytearray(path.read_bytes())
    with pq.ParquetFile(path) as shard:
        image = shard.read_row_group(1).column("image_bytes")[0].as_py()
    # Not compressible, so stored as it is. The marker that ends its header begins its pixels.
    start = bytes(data).index(image[-200:-100])
    data[start] ^= 0xFF
    path.write_bytes(data)
    found = damages(shards)
    assert found[0] == (
        path.name,
        None,
        "its SHA-256 differs from the manifest's: it changed after it was written",
    )
    assert {file for file, _, _ in found} == {path.name}


def test_a_row_whose_jpeg_is_irregular_is_suspected_if_its_shard_changed(shards):
    def add_bytes(rows):
        data = rows[2]["image_bytes"]
        rows[2]["image_bytes"] = data[:-2] + bytes(5) + data[-2:]

    name = rewrite(shards, 0, add_bytes)
    assert damages(shards) == []
    name = rewrite(shards, 0, add_bytes, keep_digest=True)
    assert [(file, row) for file, row, _ in damages(shards)] == [(name, None), (name, 2)]
    assert "probably changed here: " in damages(shards)[1][2]


def test_missing_truncated_and_foreign_files_are_found(shards):
    manifest = read_manifest(str(shards))
    first, second, third = (shards / file.name for file in manifest.files)
    first.unlink()
    second.write_bytes(second.read_bytes()[:-50])
    third.write_bytes(b"no parquet")
    found = damages(shards)
    assert found[0] == (first.name, None, "the file is missing")
    for path in (second, third):
        digest, parquet = (each for each in found if each[0] == path.name)
        assert "SHA-256" in digest[2] and "not a readable Parquet file" in parquet[2]


def test_a_damaged_row_group_hides_only_its_own_rows(shards):
    manifest = read_manifest(str(shards))
    file = manifest.files[0]
    path = shards / file.name
    with pq.ParquetFile(path) as shard:
        column = shard.metadata.row_group(1).column(0)
        start = column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 30] = bytes(30)
    path.write_bytes(data)
    reasons = [reason for _, row, reason in damages(shards) if row is None]
    assert len(reasons) == 2
    assert reasons[1].startswith("row group 1, rows 2 to 3, cannot be read: ")


def test_all_damage_of_all_folders_is_in_one_error_and_stale_shards_are_said(
    shards, tmp_path, caplog
):
    names = [file.name for file in read_manifest(str(shards)).files]
    (shards / names[0]).unlink()
    (shards / names[1]).rename(shards / "other.parquet")
    with pytest.raises(DamagedShardsError) as caught:
        check_shards([str(shards), str(tmp_path / "nowhere")])
    message = str(caught.value)
    assert message.startswith("3 problems:")
    assert f"{names[0]}: the file is missing" in message
    assert f"{names[1]}: the file is missing" in message
    assert "nowhere/manifest.json: no manifest" in message
    assert "other.parquet is not in the manifest" in caplog.text


@pytest.mark.ray
@pytest.mark.s3
def test_ray_tasks_check_shards_in_a_bucket(ray_cluster, s3, shards):
    bucket = s3("check")
    storage.upload_folder(shards, bucket)
    check_shards([bucket])
    name = read_manifest(bucket).files[2].name
    storage.write_bytes(storage.join(bucket, name), b"no parquet")
    with pytest.raises(DamagedShardsError, match=f"{name}: not a readable Parquet file"):
        check_shards([bucket])
