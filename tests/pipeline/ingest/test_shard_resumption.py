"""A job that writes shards, killed in the middle: nothing half is taken for whole."""

import signal
import subprocess
import sys

import pytest

from pipeline.ingest.coco import read_coco
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.manifest import read_manifest
from pipeline.storage import MissingFileError

KILLED_AFTER_TWO_SHARDS = """
import os, signal, sys
from pipeline.ingest import shard_writer
from pipeline.ingest.coco import read_coco

whole, written = shard_writer.write_shard, []

def write_two(task):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(task.name)
    return whole(task)

shard_writer.write_shard = write_two
listing = read_coco(*sys.argv[1:3])
shard_writer.write_shards(listing, sys.argv[3], rows_per_shard=5, rows_per_group=2)
"""


def test_a_job_killed_between_shards_goes_on_where_it_was(tmp_path):
    annotations, images = draw_shapes_dataset(tmp_path / "source", 12, 48, 3, seed=3)
    shards = tmp_path / "shards"
    places = (str(annotations), str(images))
    killed = subprocess.run([sys.executable, "-c", KILLED_AFTER_TWO_SHARDS, *places, shards])
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(MissingFileError):
        read_manifest(str(shards))
    finished = {path: path.stat().st_mtime_ns for path in shards.glob("*.parquet")}
    assert len(finished) == 2

    manifest = write_shards(read_coco(*places), str(shards), rows_per_shard=5, rows_per_group=2)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert manifest.counts["images"] == manifest.rows == 12
    assert not (shards / "parts").exists()
