"""The stream yields the planned images in planned order, whichever way they are read."""

import dataclasses
import logging
from collections import Counter
from pathlib import Path

import pytest
import torch

from model.config import InputConfig, ModelConfig
from pipeline import storage
from pipeline.config import DataConfig, RunConfig, TrainConfig
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.manifest import read_manifest, write_manifest
from pipeline.shards.row import read_rows
from pipeline.stream.shard_plan import images_of_step, plan_shards
from pipeline.stream.training_stream import StreamError, open_local_stream, open_stream
from tests.annotated_datasets import CROWD, draw_coco
from tests.pipeline.stream.objects import objects_of_images
from tests.pipeline.stream.reading import content, copy_with_damage, read


def test_the_stream_yields_the_planned_images_in_order(config, shards):
    manifest = read_manifest(shards)
    ids = [row.image_id for file in manifest.files for row in read_rows(shards, file.name)]
    plan = plan_shards(manifest, 4, config.seed)
    batches = read(open_local_stream, config, shards, 0, 1, 0, 13)
    assert len(batches) == 13
    for step, batch in enumerate(batches):
        planned = [ids[image] for image in images_of_step(plan, step)[1].tolist()]
        assert [image[1] for image in batch] == planned


def test_each_epoch_draws_new_augmentations(config, shards):
    batches = read(open_local_stream, config, shards, 0, 1, 0, 11)
    seeds = {}
    for batch in batches:
        for image in batch:
            seeds.setdefault(image[1], []).append(image[4])
    assert all(len(set(each)) == len(each) for each in seeds.values())
    assert max(map(len, seeds.values())) >= 2


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_workers_and_micro_batches_only_divide_the_global_batch(
    config, shards, world_size, accumulate
):
    whole = read(open_local_stream, config, shards, 0, 1, 0, 7)
    train = config.train.model_copy(update={"accumulate": accumulate})
    split = config.model_copy(update={"train": train})
    parts = [
        read(open_local_stream, split, shards, rank, world_size, 0, 7) for rank in range(world_size)
    ]
    for step in range(7):
        micro = slice(step * accumulate, (step + 1) * accumulate)
        together = [image for part in parts for batch in part[micro] for image in batch]
        assert together == whole[step]


@pytest.mark.parametrize("start", [1, 4, 5, 6, 12])
def test_a_resumed_stream_is_the_rest_of_the_uninterrupted_one(config, shards, start):
    whole = read(open_local_stream, config, shards, 0, 1, 0, 13)
    assert read(open_local_stream, config, shards, 0, 1, start, 13) == whole[start:]


def test_a_finished_run_has_no_batches(config, shards):
    assert read(open_local_stream, config, shards, 0, 1, 13, 13) == []


def test_a_stream_may_be_closed_early_and_twice(config, shards):
    stream = open_local_stream(config, shards, 0, 1, 0, 1000)
    next(stream)
    stream.close()
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_short_sides_default_to_the_models(config, shards):
    config = config.model_copy(update={"data": DataConfig(flip_probability=0.0)})
    with open_local_stream(config, shards, 0, 1, 0, 3) as stream:
        assert {size for batch in stream for size in batch.images.sizes} == {(48, 48)}


def test_a_damaged_row_is_replaced_and_reported_and_changes_nothing_else(config, shards, tmp_path):
    def truncate(row):
        row["image_bytes"] = row["image_bytes"][:-200]

    name = copy_with_damage(shards, tmp_path, truncate)
    bad_id = next(read_rows(shards, name)).image_id
    with open_local_stream(config, str(tmp_path), 0, 1, 0, 5) as stream:
        batches = list(stream)
        bad = stream.bad_rows
    whole = read(open_local_stream, config, shards, 0, 1, 0, 5)
    replaced = [i for i, batch in enumerate(whole) for image in batch if image[1] == bad_id]
    assert [(row.file, row.row, row.step) for row in bad] == [(name, 0, step) for step in replaced]
    for batch, undamaged in zip(batches, whole, strict=True):
        for image, expected in zip(content(batch), undamaged, strict=True):
            if expected[1] == bad_id:
                assert image[2:5] == expected[2:5] and image[6] == b""
            else:
                assert image == expected


def test_an_unreadable_row_group_is_reported_and_the_stream_continues(config, shards, tmp_path):
    storage.upload_folder(Path(shards), str(tmp_path))
    name = read_manifest(shards).files[2].name
    (tmp_path / name).write_bytes(b"no parquet")
    rows = read_manifest(shards).files[2].rows
    with open_local_stream(config, str(tmp_path), 0, 1, 0, 5) as stream:
        shown = sum(len(batch.images) for batch in stream)
        bad = stream.bad_rows
    assert shown == 20
    assert {row.file for row in bad} == {name}
    assert rows - 2 <= len(bad) <= rows
    assert name in bad[0].reason


def test_too_many_bad_rows_stop_the_run(config, shards, tmp_path):
    storage.upload_folder(Path(shards), str(tmp_path))
    for file in read_manifest(shards).files:
        (tmp_path / file.name).unlink()
    with (
        open_local_stream(config, str(tmp_path), 0, 1, 0, 50) as stream,
        pytest.raises(StreamError, match=r"17|18|19|20 of 20 rows"),
    ):
        list(stream)


def test_the_stream_yields_every_objects_keypoints(keypoint_config, keypoint_shards):
    seen = {}
    with open_local_stream(keypoint_config, keypoint_shards, 0, 1, 0, 12) as stream:
        for batch in stream:
            for target in objects_of_images(batch):
                top, left, right, bottom = target.keypoints.unbind(1)
                sides = torch.stack([left[:, 0], top[:, 1], right[:, 0], bottom[:, 1]], 1)
                assert torch.allclose(sides, target.boxes, atol=0.05)
                seen.setdefault(target.image_id, []).append(target.keypoints)
        assert stream.bad_rows == []
    assert len(seen) == 22
    # Flips and sizes were drawn: some image was augmented in two ways.
    assert any(len({points.numpy().tobytes() for points in each}) > 1 for each in seen.values())


def test_an_unreadable_row_has_no_keypoints_and_the_stream_continues(
    keypoint_config, keypoint_shards, tmp_path
):
    storage.upload_folder(Path(keypoint_shards), str(tmp_path))
    name = read_manifest(keypoint_shards).files[2].name
    (tmp_path / name).write_bytes(b"no parquet")
    with open_local_stream(keypoint_config, str(tmp_path), 0, 1, 0, 5) as stream:
        counts = [batch.targets.keypoints.shape[1:] for batch in stream]
        assert stream.bad_rows
    assert set(counts) == {(4, 3)}


def test_images_with_few_keypoints_are_left_out_of_training_and_counted_in_the_log(
    keypoint_config, keypoint_shards, keypoint_rows, caplog
):
    caplog.set_level(logging.INFO)
    data = keypoint_config.data.model_copy(update={"min_keypoints": 8})
    config = keypoint_config.model_copy(update={"data": data})
    expected = {row.image_id for row in keypoint_rows if (row.keypoints[..., 2] > 0).sum() >= 8}
    assert 4 < len(expected) < 22
    with open_local_stream(config, keypoint_shards, 0, 1, 0, 12) as stream:
        shown = {image_id for batch in stream for image_id in batch.targets.image_ids}
    assert shown == expected
    left_out = f"{22 - len(expected)} of 22 images have fewer than 8 labeled keypoints"
    assert left_out in caplog.text


def with_data(config, **settings):
    data = config.data.model_copy(update=settings)
    return config.model_copy(update={"data": data})


def without_contents(shards, folder):
    """Copy shards; their manifest is one of an earlier version, without contents of images."""
    storage.upload_folder(Path(shards), str(folder))
    manifest = read_manifest(shards)
    none = {"objects": (), "class_counts": (), "classes": ()}
    files = tuple(dataclasses.replace(file, **none) for file in manifest.files)
    write_manifest(str(folder), dataclasses.replace(manifest, files=files))
    return str(folder)


def test_repeated_images_are_those_of_rare_classes_also_with_an_older_manifest(
    config, shards, tmp_path, caplog
):
    """One class in a few images of 22: they are seen more often than the others."""
    caplog.set_level(logging.INFO)
    rows = [row for file in read_manifest(shards).files for row in read_rows(shards, file.name)]
    share = {label: sum(label in row.labels for row in rows) / 22 for label in range(1, 6)}
    rare = min(share, key=share.get)
    assert share[rare] < sorted(share.values())[1]
    config = with_data(config, repeat_threshold=sorted(share.values())[1])
    steps = 8 * (22 // 4)
    with open_local_stream(config, shards, 0, 1, 0, steps) as stream:
        shown = Counter(i for batch in stream for i in batch.targets.image_ids)
    repeated = {row.image_id for row in rows if rare in row.labels}
    mean = sum(shown[i] for i in repeated) / len(repeated)
    assert mean > sum(n for i, n in shown.items() if i not in repeated) / (22 - len(repeated))
    assert "an epoch repeats images of rare classes: " in caplog.text
    older = without_contents(shards, tmp_path)
    assert read(open_local_stream, config, older, 0, 1, 0, 6) == read(
        open_local_stream, config, shards, 0, 1, 0, 6
    )


def test_images_without_objects_are_dropped_from_training_and_counted_in_the_log(
    config, tmp_path, caplog
):
    """Crowd regions are no objects: an image that has nothing else is dropped."""
    caplog.set_level(logging.INFO)
    source = draw_coco(tmp_path / "source")
    for annotation in source.document["annotations"]:
        if annotation["image_id"] == 2:
            annotation |= {"iscrowd": 1, "segmentation": CROWD, "bbox": [20, 0, 12, 48]}
    kept = [a for a in source.document["annotations"] if a["image_id"] not in (1, 3)]
    source.document["annotations"] = kept
    source.write_shards(tmp_path / "shards")
    url = str(tmp_path / "shards")
    for setting, expected in (("keep", set(range(1, 13))), ("drop", set(range(4, 13)))):
        steps = 3 * (len(expected) // 4)
        chosen = with_data(config, images_without_objects=setting)
        with open_local_stream(chosen, url, 0, 1, 0, 9 * steps) as stream:
            assert {i for batch in stream for i in batch.targets.image_ids} == expected
    assert "3 of 12 images have no objects and are left out" in caplog.text


class Worker:
    """An actor that holds CPUs and opens a stream, like a Ray Train worker."""

    def read(self, config, shards, rank, world_size, start, stop):
        torch.set_num_threads(1)
        return read(open_stream, config, shards, rank, world_size, start, stop)

    def read_some_and_close(self, config, shards, batches):
        stream = open_stream(config, shards, 0, 1, 0, 10_000)
        seen = [next(stream).step for _ in range(batches)]
        stream.close()
        return seen


@pytest.mark.ray
def test_ray_reads_the_same_batches_while_workers_hold_every_cpu(ray_cluster, config, shards):
    """150 steps take two reading tasks: rows are in order across tasks, too."""
    workers = [ray_cluster.remote(num_cpus=1)(Worker).remote() for _ in range(2)]
    try:
        parts = ray_cluster.get(
            [w.read.remote(config, shards, rank, 2, 7, 157) for rank, w in enumerate(workers)]
        )
    finally:
        for worker in workers:
            ray_cluster.kill(worker)
    together = [a + b for a, b in zip(*parts, strict=True)]
    assert together == read(open_local_stream, config, shards, 0, 1, 7, 157)


@pytest.mark.ray
def test_a_closed_stream_leaves_the_cluster_to_others(ray_cluster, config, shards):
    worker = ray_cluster.remote(num_cpus=2)(Worker).remote()
    try:
        assert ray_cluster.get(worker.read_some_and_close.remote(config, shards, 3)) == [0, 1, 2]
        [first] = ray_cluster.get(worker.read.remote(config, shards, 0, 1, 9, 10))
        assert first[0][0] == 9
    finally:
        ray_cluster.kill(worker)


@pytest.mark.ray
@pytest.mark.s3
def test_real_images_stream_from_a_bucket(ray_cluster, s3, coco_tiny):
    bucket = s3("coco")
    for split in ("train", "val"):
        listing = read_coco(
            str(coco_tiny / f"annotations/instances_{split}2017.json"),
            str(coco_tiny / f"{split}2017"),
        )
        manifest = write_shards(listing, storage.join(bucket, split), 32, 8)
        assert manifest.rows == manifest.counts["images"] == 80
    config = RunConfig(
        model=ModelConfig(num_classes=80, input=InputConfig(short_side=128, long_side=256)),
        train=TrainConfig(global_batch=8),
    )
    worker = ray_cluster.remote(num_cpus=2)(Worker).remote()
    try:
        shards = storage.join(bucket, "train")
        batches = ray_cluster.get(worker.read.remote(config, shards, 0, 1, 0, 10))
    finally:
        ray_cluster.kill(worker)
    assert len({image[1] for batch in batches for image in batch}) > 72
    assert batches == read(open_local_stream, config, shards, 0, 1, 0, 10)
