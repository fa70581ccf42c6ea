"""The batch of a step that became NaN is saved as the network got it, and can be fed again."""

import pytest
import torch

from model import build_detector
from model.structures.transfer import tensors_of
from pipeline.shards.manifest import read_manifest
from pipeline.stream.training_stream import open_local_stream
from pipeline.train import nan_batch
from pipeline.train.nan_batch import load_batches, save_step

STEP, WORKERS = 3, 2


def batches_of(config, shards):
    """Return the micro-batches of one step of all workers."""
    batches = []
    for rank in range(WORKERS):
        with open_local_stream(config, shards, rank, WORKERS, STEP, STEP + 1) as stream:
            batches += stream
    return batches


def with_micro_batches(config):
    train = config.train.model_copy(update={"global_batch": 4, "accumulate": 2})
    return config.model_copy(update={"train": train})


def assert_same(saved, batch):
    assert torch.equal(saved.images.pixels, batch.images.pixels)
    assert saved.images.pixels.stride() == batch.images.pixels.stride()
    for name in ("sizes", "original_sizes", "sampling_seeds"):
        assert getattr(saved.images, name) == getattr(batch.images, name)
    assert (saved.targets.counts, saved.targets.image_ids) == (
        batch.targets.counts,
        batch.targets.image_ids,
    )
    pairs = zip(tensors_of(saved.targets), tensors_of(batch.targets), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_micro_batches_with_these_images_are_drawn_again_and_give_the_same_losses(
    run_config, shapes_shards, tmp_path
):
    config = with_micro_batches(run_config)
    batches = batches_of(config, shapes_shards)
    ids = [batches[1].targets.image_ids[0], batches[2].targets.image_ids[0]]
    expected = [b for b in batches if {*ids} & {*b.targets.image_ids}]
    url = str(tmp_path / "batch.safetensors")
    assert save_step(config, shapes_shards, WORKERS, STEP, ids, url) == len(expected)
    saved = load_batches(url)
    for one, other in zip(saved, expected, strict=True):
        assert_same(one, other)
    torch.manual_seed(0)
    detector = build_detector(config.model, read_manifest(shapes_shards).categories).train()
    losses, again = (detector(b.images, b.targets) for b in (expected[0], saved[0]))
    assert {name: term.total.item() for name, term in losses.items()} == {
        name: term.total.item() for name, term in again.items()
    }


def test_keypoints_are_saved_in_the_place_of_masks(
    tiny_keypoint_config, shapes_keypoint_shards, tmp_path
):
    config = with_micro_batches(tiny_keypoint_config)
    first = batches_of(config, shapes_keypoint_shards)[0]
    url = str(tmp_path / "batch.safetensors")
    ids = first.targets.image_ids
    assert save_step(config, shapes_keypoint_shards, WORKERS, STEP, ids, url)
    saved = load_batches(url)[0]
    assert saved.targets.masks is None
    assert_same(saved, first)


def test_the_file_has_no_more_than_its_largest_size(
    run_config, shapes_shards, tmp_path, monkeypatch
):
    config = with_micro_batches(run_config)
    batches = batches_of(config, shapes_shards)
    ids = [image for batch in batches for image in batch.targets.image_ids]
    url = tmp_path / "batch.safetensors"
    largest = batches[0].buffer.numel()
    for size, saved in ((largest - 1, 0), (largest, 1)):
        monkeypatch.setattr(nan_batch, "MAX_BYTES", size)
        assert save_step(config, shapes_shards, WORKERS, STEP, ids, str(url)) == saved
        assert url.exists() == (saved > 0)


@pytest.mark.parametrize("ids", [[], [10**9]])
def test_images_that_are_not_in_the_step_give_no_file(run_config, shapes_shards, tmp_path, ids):
    url = tmp_path / "batch.safetensors"
    config = with_micro_batches(run_config)
    assert save_step(config, shapes_shards, WORKERS, STEP, ids, str(url)) == 0
    assert not url.exists()
