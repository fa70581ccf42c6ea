"""Results are in the data set's ids; any number of ranks finds the same numbers."""

import json
import socket
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from model import Detections, ModelConfig, load_detector
from pipeline.evaluate.coco_metrics import coco_metrics
from pipeline.evaluate.predictions import predict_rows, rows_of_rank, validate
from pipeline.ingest.coco import coco_ground_truth
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows


def all_rows(shards_url):
    files = read_manifest(shards_url).files
    return [row for file in files for row in read_rows(shards_url, file.name)]


def oracle(rows, categories):
    """Stands in for a trained detector: finds the annotated boxes of the rows, in order."""
    following = iter(rows)

    def predict(images, batch_size):
        return [truth_of(next(following)) for _ in images]

    def truth_of(row):
        return Detections(
            boxes=torch.from_numpy(row.boxes.copy()),
            scores=torch.ones(len(row.labels)),
            labels=torch.from_numpy(row.labels.copy()),
            masks=None,
            image_size=row.size,
        )

    return SimpleNamespace(predict=predict, categories=categories, config=ModelConfig())


def test_who_finds_the_annotated_boxes_has_ap_one(shapes_shards):
    rows = all_rows(shapes_shards)
    categories = read_manifest(shapes_shards).categories
    found = predict_rows(oracle(rows, categories), rows, batch=3)
    assert {result["category_id"] for result in found.results} <= {10, 20, 30, 40, 50}
    truth = coco_ground_truth(shapes_shards)
    assert coco_metrics(truth, found.results, ["bbox"]).values["bbox/AP"] == pytest.approx(1.0)


def test_an_unreadable_image_counts_as_empty_and_is_named(shapes_shards, tiny_checkpoint):
    rows = all_rows(shapes_shards)[:4]
    rows[1] = replace(rows[1], image_bytes=rows[1].image_bytes[:200])
    found = predict_rows(load_detector(tiny_checkpoint), rows, batch=2)
    assert found.images == 4
    [failure] = found.failures
    assert failure.startswith(rows[1].file_name)
    assert {result["image_id"] for result in found.results} == {rows[n].image_id for n in (0, 2, 3)}


@pytest.mark.parametrize("world_size", [1, 2, 3, 20])
def test_ranks_share_the_rows_evenly_and_completely(shapes_shards, world_size):
    shares = [
        [row.image_id for row in rows_of_rank(shapes_shards, rank, world_size)]
        for rank in range(world_size)
    ]
    assert sorted(chain.from_iterable(shares)) == list(range(1, 12))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def one_of_two_ranks(rank, port, checkpoint, shards_url, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    metrics = validate(load_detector(checkpoint), shards_url, rank, 2, batch=1)
    found = None if metrics is None else [metrics.images, metrics.values]
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def test_two_ranks_find_what_one_finds(shapes_shards, tiny_checkpoint, tmp_path):
    detector = load_detector(tiny_checkpoint).train()
    alone = validate(detector, shapes_shards, 0, 1, batch=1)
    assert detector.training
    assert alone.images == 11
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (port, tiny_checkpoint, shapes_shards, tmp_path)
    mp.spawn(one_of_two_ranks, args=arguments, nprocs=2, join=True)
    assert json.loads((tmp_path / "0.json").read_text()) == [11, alone.values]
    assert json.loads((tmp_path / "1.json").read_text()) is None
