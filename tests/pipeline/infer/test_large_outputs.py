"""The rows of a large output file are written and read in little memory."""

import json
import os
import subprocess
import sys

import pytest

from pipeline.infer.detection_files import read_detection_rows, write_detection_rows
from pipeline.infer.detection_rows import DetectionRow
from pipeline.infer.failures import write_failures

ROWS_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path

from pipeline.infer.coco_export import write_coco_files
from pipeline.infer.detection_files import iterate_detection_rows, write_detection_rows
from pipeline.infer.detection_rows import DetectionRow
from pipeline.infer.failures import write_failures

OBJECTS = 100

def rows():
    for n in range(1500):
        yield DetectionRow(
            image_id=n,
            file_name=f"{n:08d}.jpg",
            height=800,
            width=1333,
            boxes=[[float(n), float(k), n + 10.5, k + 10.5] for k in range(OBJECTS)],
            scores=[1.0 - k / OBJECTS for k in range(OBJECTS)],
            labels=[k + 1 for k in range(OBJECTS)],
            category_ids=[1000 + k for k in range(OBJECTS)],
            category_names=[f"class {k}" for k in range(OBJECTS)],
            masks_rle=[
                {"size": [800, 1333], "counts": f"{n}{k}" + "0d`0`4" * 9} for k in range(OBJECTS)
            ],
            error="damaged" if n % 2 else None,
        )

way, folder = sys.argv[1], sys.argv[2]
url = f"{folder}/part-00000.parquet"
write_detection_rows(url, [])  # imports what is imported late
list(iterate_detection_rows(url))
status = Path("/proc/self/status").read_text()
[used_kb] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData")]
limit = (used_kb << 10) + (100 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
write_detection_rows(url, rows() if way == "stream" else list(rows()))
write_failures(folder, [url])
write_coco_files(folder, [url])
print(sum(1 for _ in iterate_detection_rows(url)))
"""


def run(way, folder):
    return subprocess.run(
        [sys.executable, "-c", ROWS_UNDER_A_LIMIT, way, str(folder)],
        env=os.environ
        | {
            "MALLOC_ARENA_MAX": "1",
            "OMP_NUM_THREADS": "1",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
            "TMPDIR": str(folder),
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_rows_of_a_chunk_are_not_held_in_memory(tmp_path):
    # Held in a list, the rows take 150 MB more.
    result = run("stream", tmp_path)
    assert result.stdout.strip() == "1500", result.stderr[-2000:]
    assert len((tmp_path / "failed.jsonl").read_text().splitlines()) == 750
    assert "MemoryError" in run("list", tmp_path).stderr


def unread(n):
    return DetectionRow(n, f"ü {n}.jpg", None, None, [], [], [], [], [], None, f"error {n}")


@pytest.mark.parametrize("count", [0, 1, 64, 65, 200])
def test_rows_come_back_in_order_whatever_their_number(tmp_path, count):
    url = str(tmp_path / "a.parquet")
    rows = [unread(n) for n in range(count)]
    assert write_detection_rows(url, iter(rows)) == (tmp_path / "a.parquet").stat().st_size
    assert read_detection_rows(url) == rows


def test_the_failures_of_all_outputs_are_one_list(tmp_path):
    urls = [str(tmp_path / f"{n}.parquet") for n in range(2)]
    write_detection_rows(urls[0], [unread(1), unread(2)])
    write_detection_rows(urls[1], [unread(3)])
    write_failures(str(tmp_path), urls)
    lines = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert [line["error"] for line in lines] == ["error 1", "error 2", "error 3"]
    assert lines[0] == {"image_id": 1, "file_name": "ü 1.jpg", "error": "error 1"}
    write_failures(str(tmp_path), [])
    assert (tmp_path / "failed.jsonl").read_text() == ""
