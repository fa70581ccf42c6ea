"""Every chunk gets one complete output and every image one row, even if workers die."""

import json
import logging
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from model import Predictor
from model.config.settings import ConfigError
from model.images.decode import decode_image
from model.weights import load_network
from pipeline import storage
from pipeline.config import InferConfig
from pipeline.infer.detection_files import SCHEMA, read_detection_rows
from pipeline.infer.inference import UnfinishedError, UnreadableImagesError, run_inference
from pipeline.output_layout import predictions_url
from pipeline.storage.exclusive_use import FolderInUseError, exclusive_use

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def images(shapes_images, tmp_path):
    """A copy of the eleven images, in which the fourth is truncated and the sixth is no image."""
    folder = tmp_path / "images"
    shutil.copytree(shapes_images[1], folder)
    paths = sorted(folder.iterdir())
    paths[3].write_bytes(paths[3].read_bytes()[:300])
    paths[5].write_bytes(b"GIF89a and then nothing")
    return folder


@pytest.fixture
def infer(run_config, tiny_checkpoint, images):
    """A function that runs inference with some settings changed."""

    def run(clock=time.monotonic, **settings):
        values = {
            "inputs": str(images),
            "model": str(tiny_checkpoint),
            "images_per_shard": 4,
            "workers": 2,
            "pictures": 2,
            "score_threshold": 0.0,
        } | settings
        config = run_config.model_copy(update={"infer": InferConfig(**values)})
        return run_inference(config, clock)

    return run


def outputs(result):
    return sorted(Path(result.output_url).glob("*.parquet"))


def modification_times(result):
    return {path.name: path.stat().st_mtime_ns for path in outputs(result)}


def test_every_image_has_a_row_and_unreadable_ones_have_a_reason(infer, images, tiny_checkpoint):
    result = infer()
    assert (result.images, result.failed, result.shards_done) == (11, 2, 3)
    rows = [row for path in outputs(result) for row in read_detection_rows(str(path))]
    names = sorted(path.name for path in images.iterdir())
    assert [row.file_name for row in rows] == names
    assert [row.file_name for row in rows if row.error] == [names[3], names[5]]
    failed = (Path(result.output_url) / "failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["file_name"] for line in failed] == [names[3], names[5]]
    assert result.objects == sum(len(row.scores) for row in rows) > 0
    assert len(result.pictures) == 2
    assert all(Path(url).stat().st_size > 1000 for url in result.pictures)

    assert pq.read_schema(outputs(result)[0]).equals(SCHEMA)
    detector = load_network(tiny_checkpoint)
    [alone] = Predictor(detector).predict([decode_image((images / names[0]).read_bytes())])
    # Another batch size in another process: sums are computed in another order.
    np.testing.assert_allclose(rows[0].scores, alone.scores, atol=1e-4)
    assert rows[0].category_ids == [detector.categories[n - 1].id for n in alone.labels]
    assert [mask["size"] for mask in rows[0].masks_rle] == [[64, 64]] * len(alone)


def test_a_rerun_makes_only_missing_outputs(infer, images):
    first = infer()
    before = modification_times(first)
    again = infer()
    assert (again.shards_done, again.shards_skipped) == (0, 3)
    assert (again.images, again.failed) == (11, 2)
    assert modification_times(again) == before

    truncated, unrecorded, _ = outputs(first)
    truncated.write_bytes(truncated.read_bytes()[:100])  # as an interrupted copy leaves it
    # As a process leaves it that was killed before it wrote the ledger entry.
    (Path(first.output_url) / "_done" / f"{unrecorded.stem}.json").unlink()
    third = infer()
    assert (third.shards_done, third.shards_skipped) == (2, 1)
    assert third.images == sum(len(read_detection_rows(str(path))) for path in outputs(third)) == 11

    for path in sorted(images.iterdir())[8:]:
        path.unlink()
    fewer = infer()
    assert (fewer.images, fewer.shards_skipped) == (8, 2)
    assert len(outputs(fewer)) == 2  # the output of the deleted images is deleted too


def test_label_studio_needs_the_address_of_images_that_are_in_shards(infer, shapes_shards):
    annotations = {"formats": ["label_studio"]}
    with pytest.raises(ConfigError, match="image_prefix: must be given for label_studio"):
        infer(inputs=shapes_shards, annotations=annotations)
    result = infer(inputs=shapes_shards, annotations={**annotations, "image_prefix": "s3://b/"})
    tasks = json.loads((Path(result.output_url) / "label_studio.json").read_text())
    assert {task["data"]["image"][:7] for task in tasks} == {"s3://b/"}


@pytest.mark.s3
def test_shards_in_a_bucket_can_be_inputs(infer, shapes_shards, s3):
    inputs, output = s3("shards"), s3("predictions")
    storage.upload_folder(Path(shapes_shards), inputs)
    result = infer(inputs=inputs, output=output, workers=1, pictures=1)
    assert (result.images, result.failed, result.shards_done) == (11, 0, 3)
    written = [url.rpartition("/")[2] for url in storage.list_files(output, (".parquet",))]
    assert written == sorted(path.name for path in Path(shapes_shards).glob("*.parquet"))
    [image] = result.pictures
    assert storage.read_bytes(image).startswith(b"\x89PNG")
    assert infer(inputs=inputs, output=output, workers=1, pictures=1).shards_skipped == 3


def test_too_many_unreadable_images_fail_the_job_after_everything_is_written(infer):
    with pytest.raises(UnreadableImagesError, match=r"2 of 11 .*max_failed=0.1 .*failed.jsonl"):
        infer(max_failed=0.1)
    result = infer(max_failed=2 / 11)
    assert (result.failed, result.shards_done, result.shards_skipped) == (2, 0, 3)


def test_a_job_out_of_time_says_what_is_left_and_continues(infer):
    hours = iter([0.0, 0.5, 0.9, 1.1, 1.2, 1.3])
    with pytest.raises(UnfinishedError, match=r"3 of 11 images are left after infer.max_hours=1"):
        infer(max_hours=1, workers=1, clock=lambda: 3600 * next(hours))
    result = infer(max_hours=1, coco_results=True)
    assert (result.unfinished, result.shards_done, result.shards_skipped) == (0, 1, 2)
    found = json.loads((Path(result.output_url) / "coco_results.json").read_text())
    assert len(found) == result.objects
    infer()
    assert not (Path(result.output_url) / "coco_results.json").exists()


def test_annotations_have_the_objects_above_their_own_score(infer):
    formats = ("coco", "label_studio")
    scores = [
        s for path in outputs(infer()) for r in read_detection_rows(str(path)) for s in r.scores
    ]
    min_score = sorted(scores)[len(scores) // 2]
    result = infer(workers=1, annotations={"formats": formats, "min_score": min_score})
    folder = Path(result.output_url)
    rows = [row for path in outputs(result) for row in read_detection_rows(str(path))]
    document = json.loads((folder / "annotations.json").read_text())
    assert len(document["images"]) == sum(row.error is None for row in rows) == 9
    kept = [score for row in rows for score in row.scores if score >= min_score]
    assert [each["score"] for each in document["annotations"]] == pytest.approx(kept, abs=1e-4)
    assert 0 < len(kept) < result.objects
    assert len(json.loads((folder / "label_studio.json").read_text())) == 9
    infer(workers=1)
    assert not [path for path in folder.iterdir() if path.stem in ("annotations", "label_studio")]


def test_a_killed_worker_is_replaced_and_no_image_is_lost(infer, run_config, caplog):
    """The only worker gets a kill -9 in the middle of the job."""
    caplog.set_level(logging.WARNING)
    output = Path(run_config.output) / "predictions"
    killed = []

    def kill_the_worker():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            if list(output.glob("_done/*.json")):
                for process in psutil.Process().children(recursive=True):
                    if "ray::InferenceWorker" in " ".join(_command(process)):
                        process.kill()
                        killed.append(process.pid)
            time.sleep(0.005)

    killer = threading.Thread(target=kill_the_worker)
    killer.start()
    result = infer(workers=1, images_per_shard=1)
    killer.join()
    assert killed
    assert any("a worker died" in record.message for record in caplog.records)
    assert (result.images, result.failed, result.shards_done) == (11, 2, 11)
    assert len(outputs(result)) == 11


def _command(process):
    try:
        return process.cmdline()
    except psutil.Error:  # it ended in the meantime
        return []


def test_a_second_job_in_the_same_output_folder_is_refused(infer, run_config):
    folder = predictions_url(run_config)
    with (
        exclusive_use(folder, "inference"),
        pytest.raises(FolderInUseError, match=r"in use by another job \(inference"),
    ):
        infer()
    assert infer().images == 11
    assert not storage.exists(storage.join(folder, "owner.json"))
