"""Keypoints stay on their objects through rows, flips and batches; images with few are left out."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import InputConfig, KeypointHeadConfig, ModelConfig
from model.config.keypoint_names import COCO_PERSON_KEYPOINTS, flip_order
from model.config.settings import ConfigError
from model.structures import ImageSize, Targets
from pipeline import storage
from pipeline.config import DataConfig, RunConfig, TrainConfig
from pipeline.ingest.coco import read_coco
from pipeline.ingest.shapes import SHAPE_KEYPOINTS
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.manifest import Manifest, ShardFile, read_manifest, write_manifest
from pipeline.shards.row import read_rows
from pipeline.stream.augment import Augmentation, TrainingSample, augment
from pipeline.stream.collate import blank_sample, sample_from_row
from pipeline.stream.data_fit import check_measurable
from pipeline.stream.shard_plan import images_of_epoch, plan_shards
from pipeline.stream.training_stream import open_local_stream

SIZE = ImageSize(40, 60)
SHAPE_FLIP = flip_order(SHAPE_KEYPOINTS)

CONFIG = RunConfig(
    seed=3,
    model=ModelConfig(
        num_classes=5,
        input=InputConfig(short_side=48, long_side=64),
        keypoint=KeypointHeadConfig(names=SHAPE_KEYPOINTS),
    ),
    data=DataConfig(train_short_sides=(48, 64)),
    train=TrainConfig(global_batch=4),
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    drawn = draw_shapes_dataset(folder / "drawn", 22, 48, 3, seed=1, keypoints=True)
    write_shards(read_coco(*map(str, drawn)), str(folder / "shards"), 8, 3)
    return str(folder / "shards")


def rows_of(url):
    return [row for file in read_manifest(url).files for row in read_rows(url, file.name)]


def with_model(**changes):
    return CONFIG.model_copy(update={"model": CONFIG.model.model_copy(update=changes)})


def with_data(**changes):
    return CONFIG.model_copy(update={"data": CONFIG.data.model_copy(update=changes)})


def sample_of(keypoints, size=SIZE):
    objects = len(keypoints)
    targets = Targets(
        torch.tensor([[1.0, 2.0, 30.0, 20.0]]).repeat(objects, 1),
        torch.ones(objects, dtype=torch.int64),
        keypoints=keypoints,
    )
    return TrainingSample(torch.zeros(*size, 3, dtype=torch.uint8), targets, size)


@st.composite
def labelled_keypoints(draw):
    """(2, 17, 3): whole pixels, so that float32 gives them back."""
    x = draw(st.lists(st.integers(0, 60), min_size=34, max_size=34))
    y = draw(st.lists(st.integers(0, 40), min_size=34, max_size=34))
    visibility = draw(st.lists(st.sampled_from([0, 1, 2]), min_size=34, max_size=34))
    points = torch.tensor([x, y, visibility], dtype=torch.float32).T.reshape(2, 17, 3)
    return points * (points[..., 2:] > 0)


@given(labelled_keypoints())
@settings(max_examples=25, deadline=None)
def test_flipping_twice_gives_the_keypoints_back(keypoints):
    flip, order = Augmentation(SIZE, True), flip_order(COCO_PERSON_KEYPOINTS)
    once = augment(sample_of(keypoints), flip, order)
    assert torch.equal(augment(once, flip, order).targets.keypoints, keypoints)
    for name, source in zip(range(17), order, strict=True):
        there, here = once.targets.keypoints[:, name], keypoints[:, source]
        labelled = here[:, 2] > 0
        assert torch.equal(there[:, 2], here[:, 2])
        assert torch.equal(there[labelled, 0], 60 - here[labelled, 0])
        assert torch.equal(there[labelled, 1], here[labelled, 1])
        assert (there[~labelled] == 0).all()


def test_keypoints_are_scaled_with_the_image_and_the_input_is_left_alone():
    keypoints = torch.tensor([[[30.0, 10.0, 2.0], [0.0, 0.0, 0.0], [60.0, 40.0, 1.0]]])
    sample = sample_of(keypoints.clone())
    scaled = augment(sample, Augmentation(ImageSize(20, 120), False)).targets.keypoints
    assert scaled.tolist() == [[[60, 5, 2], [0, 0, 0], [120, 20, 1]]]
    assert torch.equal(sample.targets.keypoints, keypoints)


@pytest.mark.parametrize("flip", [False, True])
def test_the_outermost_points_are_outermost_after_any_augmentation(shards, flip):
    """top, left_side, right_side and bottom are where the box ends, in the mirror too."""
    for row in rows_of(shards)[:6]:
        sample = sample_from_row(row, with_masks=True, keypoint_count=4)
        targets = augment(sample, Augmentation(ImageSize(70, 90), flip), SHAPE_FLIP).targets
        top, left, right, bottom = targets.keypoints.unbind(1)
        ends = torch.stack([left[:, 0], top[:, 1], right[:, 0], bottom[:, 1]], 1)
        # Annotations are rounded to a hundredth of a pixel, twice, and scaled.
        assert torch.allclose(ends, targets.boxes, atol=0.05)


def test_crowd_regions_lose_their_keypoints_with_their_boxes(shards):
    row = next(row for row in rows_of(shards) if len(row.labels) > 1)
    crowd = np.arange(len(row.labels)) == 0
    sample = sample_from_row(dataclasses.replace(row, iscrowd=crowd), True, 4)
    assert sample.targets.keypoints.dtype == torch.float32
    np.testing.assert_allclose(sample.targets.keypoints, row.keypoints[1:], rtol=1e-6)


def test_nobody_gets_keypoints_without_asking_and_no_objects_have_none(shards):
    row = rows_of(shards)[0]
    assert sample_from_row(row, with_masks=True).targets.keypoints is None
    assert blank_sample(SIZE, with_masks=False).targets.keypoints is None
    everything = dataclasses.replace(row, iscrowd=np.ones(len(row.labels), dtype=bool))
    assert sample_from_row(everything, False, 4).targets.keypoints.shape == (0, 4, 3)
    assert blank_sample(SIZE, False, 4).targets.keypoints.shape == (0, 4, 3)


def test_the_stream_gives_every_object_its_keypoints(shards):
    seen = {}
    with open_local_stream(CONFIG, shards, 0, 1, 0, 12) as stream:
        for batch in stream:
            for target in batch.targets:
                top, left, right, bottom = target.keypoints.unbind(1)
                ends = torch.stack([left[:, 0], top[:, 1], right[:, 0], bottom[:, 1]], 1)
                assert torch.allclose(ends, target.boxes, atol=0.05)
                seen.setdefault(target.image_id, []).append(target.keypoints)
        assert stream.bad_rows == []
    assert len(seen) == 22
    # Flips and sizes were drawn: some image came in two forms.
    assert any(len({points.numpy().tobytes() for points in each}) > 1 for each in seen.values())


def test_a_row_that_cannot_be_read_has_no_keypoints_and_the_batch_goes_on(shards, tmp_path):
    storage.upload_folder(Path(shards), str(tmp_path))
    name = read_manifest(shards).files[2].name
    (tmp_path / name).write_bytes(b"no parquet")
    with open_local_stream(CONFIG, str(tmp_path), 0, 1, 0, 5) as stream:
        counts = [target.keypoints.shape[1:] for batch in stream for target in batch.targets]
        assert stream.bad_rows
    assert set(counts) == {(4, 3)}


def labelled(*files):
    """Shards of upright and level images in turn, with labelled keypoints as given."""
    made = []
    for number, points in enumerate(files):
        sizes = tuple(ImageSize(20, 10) if n % 2 else ImageSize(10, 20) for n in range(len(points)))
        made.append(ShardFile(f"s{number}", len(points), "", (len(points),), sizes, points))
    return Manifest(2, (), tuple(made), "", {}, {})


@given(
    st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=9).map(tuple), min_size=1),
    st.integers(0, 20),
    st.integers(1, 5),
)
def test_an_epoch_shows_only_images_with_enough_keypoints(files, least, batch):
    manifest = labelled(*files)
    counts = np.concatenate(files)
    enough = int((counts >= least).sum())
    if not enough:
        with pytest.raises(ValueError, match="no image has"):
            plan_shards(manifest, batch, 0, least)
        return
    plan = plan_shards(manifest, batch, 0, least)
    images = images_of_epoch(plan, 1)
    assert plan.images == enough
    assert images.shape == (plan.steps_per_epoch, batch)
    assert (counts[images] >= least).all()
    assert enough - len(np.unique(images)) < batch
    if least == 0:
        assert np.array_equal(images, images_of_epoch(plan_shards(manifest, batch, 0), 1))


def test_images_with_few_keypoints_are_left_out_of_training_and_the_log_says_how_many(
    shards, caplog
):
    caplog.set_level(logging.INFO)
    least = 8
    wanted = {row.image_id for row in rows_of(shards) if (row.keypoints[..., 2] > 0).sum() >= least}
    assert 4 < len(wanted) < 22
    with open_local_stream(with_data(min_keypoints=least), shards, 0, 1, 0, 12) as stream:
        shown = {target.image_id for batch in stream for target in batch.targets}
    assert shown == wanted
    left_out = f"{22 - len(wanted)} of 22 images have fewer than 8 labelled keypoints"
    assert left_out in caplog.text


def refusal(config, url):
    with pytest.raises(ConfigError) as caught:
        open_local_stream(config, url, 0, 1, 0, 1)
    return str(caught.value)


def test_shards_whose_keypoints_do_not_fit_the_model_are_refused(shards, tmp_path):
    person = with_model(keypoint=KeypointHeadConfig())
    assert "must be those of" in refusal(person, shards)
    assert "[top, left_side, right_side, bottom]; got [nose, left_eye" in refusal(person, shards)
    storage.upload_folder(Path(shards), str(tmp_path))
    manifest = read_manifest(shards)
    write_manifest(str(tmp_path), dataclasses.replace(manifest, keypoints=None))
    assert "has no keypoints" in refusal(CONFIG, str(tmp_path))
    few = with_model(keypoint=None).model_copy(update={"data": DataConfig(min_keypoints=1)})
    assert "data.min_keypoints: " in refusal(few, str(tmp_path))


def renamed(shards, folder, names):
    storage.upload_folder(Path(shards), str(folder))
    manifest = read_manifest(shards)
    keypoints = dataclasses.replace(manifest.keypoints, names=names)
    write_manifest(str(folder), dataclasses.replace(manifest, keypoints=keypoints))
    return with_model(keypoint=KeypointHeadConfig(names=names))


def test_validation_shards_may_lack_keypoints_but_not_have_others(shards):
    manifest = read_manifest(shards)
    check_measurable(CONFIG, manifest, shards)
    check_measurable(CONFIG, dataclasses.replace(manifest, keypoints=None), shards)
    check_measurable(with_model(keypoint=None), manifest, shards)
    with pytest.raises(ConfigError, match="must be those of"):
        check_measurable(with_model(keypoint=KeypointHeadConfig()), manifest, shards)


def test_names_that_no_flip_can_serve_train_without_flips_only(shards, tmp_path):
    config = renamed(shards, tmp_path, ("top", "left_side", "other", "bottom"))
    assert "left_side has no counterpart right_side" in refusal(config, str(tmp_path))
    still = config.model_copy(update={"data": DataConfig(flip_probability=0.0)})
    with open_local_stream(still, str(tmp_path), 0, 1, 0, 1) as stream:
        assert next(stream).targets[0].keypoints.shape[1:] == (4, 3)


def test_names_without_sides_are_warned_of(shards, tmp_path, caplog):
    config = renamed(shards, tmp_path, ("N", "W", "E", "S"))
    open_local_stream(config, str(tmp_path), 0, 1, 0, 1).close()
    assert "no keypoint is called left_" in caplog.text
