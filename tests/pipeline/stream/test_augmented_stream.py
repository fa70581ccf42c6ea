"""Turned and pasted images are the same for any workers and after resuming, and stay exact."""

import pytest
import torch

from pipeline.config.augmentation import RandomCropConfig, ScaleJitterConfig
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows
from pipeline.stream.paste_plan import filled_paste_slots, images_by_slot
from pipeline.stream.shard_plan import plan_shards
from pipeline.stream.training_stream import open_local_stream, open_stream
from tests.pipeline.stream.objects import objects_of_images
from tests.pipeline.stream.reading import content, copy_with_damage, read

STEPS = 7
JITTER = ScaleJitterConfig(side=64, min_scale=0.3, max_scale=1.6)
AUGMENTATIONS = {
    "turned": {"quarter_turn_probability": 0.75},
    "pasted": {"copy_paste_probability": 0.6},
    "cropped": {
        "random_crop": RandomCropConfig(size=(0.3, 0.3), with_object=True, probability=0.8),
        "copy_paste_probability": 0.6,
    },
    "all": {
        "quarter_turn_probability": 0.5,
        "copy_paste_probability": 1.0,
        "vertical_flip_probability": 0.5,
        "scale_jitter": JITTER,
    },
}


def augmented(config, accumulate=1, **settings):
    """Return a config with other settings of the data."""
    train = config.train.model_copy(update={"accumulate": accumulate})
    data = config.data.model_copy(update=settings)
    return config.model_copy(update={"data": data, "train": train})


@pytest.fixture(scope="module", params=AUGMENTATIONS)
def settings(request):
    return AUGMENTATIONS[request.param]


@pytest.fixture(scope="module")
def whole(config, shards_of_many_shapes, settings):
    """The batches of a single worker, of two epochs."""
    return read(
        open_local_stream, augmented(config, **settings), shards_of_many_shapes, 0, 1, 0, STEPS
    )


@pytest.mark.parametrize(("world_size", "accumulate"), [(2, 1), (4, 1), (1, 4), (2, 2)])
def test_workers_and_micro_batches_only_divide_the_global_batch(
    config, shards_of_many_shapes, settings, whole, world_size, accumulate
):
    split = augmented(config, accumulate, **settings)
    parts = [
        read(open_local_stream, split, shards_of_many_shapes, rank, world_size, 0, STEPS)
        for rank in range(world_size)
    ]
    for step in range(STEPS):
        micro = slice(step * accumulate, (step + 1) * accumulate)
        together = [image for part in parts for batch in part[micro] for image in batch]
        assert together == whole[step]


def unpadded(config, shards, rank, world_size):
    """Return the pixels and boxes of each image of a stream, by step."""
    steps = [[] for _ in range(STEPS)]
    with open_local_stream(config, shards, rank, world_size, 0, STEPS) as stream:
        for batch in stream:
            for image, target in zip(
                batch.images.unpadded(), objects_of_images(batch), strict=True
            ):
                steps[batch.step].append((image.numpy().tobytes(), target.boxes.tolist()))
    return steps


def test_images_do_not_depend_on_those_of_their_canvas(config, shards_of_many_shapes, settings):
    train = config.train.model_copy(update={"canvas": "micro_batch"})
    alone = augmented(config.model_copy(update={"train": train}), **settings)
    parts = [unpadded(alone, shards_of_many_shapes, rank, 4) for rank in range(4)]
    together = [[image for part in step for image in part] for step in zip(*parts, strict=True)]
    assert together == unpadded(augmented(config, **settings), shards_of_many_shapes, 0, 1)


@pytest.mark.parametrize("start", range(1, STEPS))
def test_a_resumed_stream_is_the_rest_of_the_uninterrupted_one(
    config, shards_of_many_shapes, settings, whole, start
):
    rest = augmented(config, **settings)
    assert read(open_local_stream, rest, shards_of_many_shapes, 0, 1, start, STEPS) == whole[start:]


def test_a_run_may_end_at_any_step(config, shards_of_many_shapes, settings, whole):
    """The images that are pasted in the last step are those of steps that never come."""
    for stop in range(1, STEPS):
        part = augmented(config, **settings)
        assert read(open_local_stream, part, shards_of_many_shapes, 0, 1, 0, stop) == whole[:stop]


@pytest.mark.ray
def test_ray_reads_the_same_batches(ray_cluster, config, shards_of_many_shapes, settings, whole):
    worker = ray_cluster.remote(num_cpus=1)(read).remote(
        open_stream, augmented(config, **settings), shards_of_many_shapes, 0, 1, 0, STEPS
    )
    assert ray_cluster.get(worker) == whole


def test_turned_images_have_their_size_swapped_and_fit_the_canvas(config, shards_of_many_shapes):
    turned, plain = (
        read(open_local_stream, each, shards_of_many_shapes, 0, 1, 0, STEPS)
        for each in (augmented(config, quarter_turn_probability=0.75), config)
    )
    same_size = set()
    for batch, before in zip(turned, plain, strict=True):
        for (_, _, canvas, size, *_), (_, _, _, plain_size, *_) in zip(batch, before, strict=True):
            assert size.height <= canvas[0] and size.width <= canvas[1]
            assert size in (plain_size, plain_size[::-1])
            same_size.add(size == plain_size)
    assert same_size == {True, False}


@pytest.mark.parametrize("jitter", [None, JITTER], ids=["resized", "jittered"])
def test_only_drawn_slots_change_and_their_objects_are_pasted_from_the_planned_image(
    config, shards, jitter
):
    """Where nothing is pasted, the image is the one of a stream without copy-paste."""
    pasted = augmented(config, copy_paste_probability=0.5, scale_jitter=jitter)
    plain = augmented(config, scale_jitter=jitter)
    manifest = read_manifest(shards)
    ids = [row.image_id for file in manifest.files for row in read_rows(shards, file.name)]
    plan = plan_shards(manifest, 4, config.seed)
    before = read(open_local_stream, plain, shards, 0, 1, 0, STEPS)
    changed = 0
    with open_local_stream(pasted, shards, 0, 1, 0, STEPS) as stream:
        for batch in stream:
            drawn = filled_paste_slots(plan, batch.step, range(4), 0.5)
            after = content(batch)
            for slot, (image, unpasted) in enumerate(zip(after, before[batch.step], strict=True)):
                assert image[1] == unpasted[1] == ids[images_by_slot(plan, batch.step)[slot]]
                height, width = image[3]
                assert height >= unpasted[3].height and width >= unpasted[3].width
                if jitter is None:
                    assert image[3] == unpasted[3]
                if 4 + slot not in drawn:
                    assert image[3] == unpasted[3] and image[6:] == unpasted[6:]
                changed += image[6] != unpasted[6]
                assert height <= image[2][0] and width <= image[2][1]
    assert changed > 3


@pytest.mark.parametrize("canvas", ["global_batch", "micro_batch"])
def test_the_canvas_has_room_for_images_that_grow(config, shards, canvas):
    changes = {"train": config.train.model_copy(update={"global_batch": 1, "canvas": canvas})}
    jitter = ScaleJitterConfig(side=256, min_scale=0.1, max_scale=1.0)
    plain = augmented(config.model_copy(update=changes), scale_jitter=jitter)
    pasting = augmented(plain, copy_paste_probability=1.0)
    pairs = [read(open_local_stream, each, shards, 0, 1, 0, 20) for each in (plain, pasting)]
    grown = [after[3] > before[3] for [before], [after] in zip(*pairs, strict=True)]
    assert sum(grown) > 3


def test_a_model_without_masks_gets_the_same_boxes(config, shards):
    pasting = augmented(config, copy_paste_probability=1.0)
    model = config.model.model_copy(update={"mask": None})
    boxes_only = pasting.model_copy(update={"model": model})
    with (
        open_local_stream(pasting, shards, 0, 1, 0, STEPS) as stream,
        open_local_stream(boxes_only, shards, 0, 1, 0, STEPS) as other,
    ):
        for batch, without in zip(stream, other, strict=True):
            assert without.targets.masks is None
            assert torch.equal(batch.targets.boxes, without.targets.boxes)
            assert torch.equal(batch.images.pixels, without.images.pixels)


def test_pasted_objects_bring_their_keypoints(keypoint_config, keypoint_shards):
    """The keypoints of a shape are its outermost points, so a covered one lies beyond the box."""
    pasting = augmented(keypoint_config, copy_paste_probability=1.0)
    distances = []
    with open_local_stream(pasting, keypoint_shards, 0, 1, 0, STEPS) as stream:
        for batch in stream:
            points = batch.targets.keypoints
            top, left, right, bottom = points.unbind(1)
            sides = torch.stack([left[:, 0], top[:, 1], right[:, 0], bottom[:, 1]], 1)
            beyond = (batch.targets.boxes - sides) * torch.tensor([1.0, 1.0, -1.0, -1.0])
            # Those beyond the border of the image are not labeled.
            distances.append(beyond[(points[..., 2] > 0).all(dim=1)])
    beyond = torch.cat(distances)
    assert len(beyond) > 40
    assert beyond.min() > -1.5  # half a pixel of the mask, and the rounding of the outline
    assert (beyond.abs() < 1.5).float().mean() > 0.7
    assert (beyond > 3).any()


def test_an_unreadable_image_is_not_pasted_and_changes_nothing_else(config, shards, tmp_path):
    def truncate(row):
        row["image_bytes"] = row["image_bytes"][:-200]

    name = copy_with_damage(shards, tmp_path, truncate)
    bad_id = next(read_rows(shards, name)).image_id
    pasting = augmented(config, copy_paste_probability=1.0)
    plan = plan_shards(read_manifest(shards), 4, config.seed)
    ids = [row.image_id for file in plan.files for row in read_rows(shards, file)]
    with open_local_stream(pasting, str(tmp_path), 0, 1, 0, 11) as stream:
        batches = [content(batch) for batch in stream]
        bad = stream.bad_rows
    effects = {row.effect for row in bad}
    assert effects == {"replaced by a gray image", "its objects are not pasted"}
    assert {(row.file, row.row) for row in bad} == {(name, 0)}
    whole = read(open_local_stream, pasting, shards, 0, 1, 0, 11)
    plain = read(open_local_stream, config, shards, 0, 1, 0, 11)
    for step, (batch, undamaged) in enumerate(zip(batches, whole, strict=True)):
        images = [ids[number] for number in images_by_slot(plan, step)]
        for slot, image in enumerate(batch):
            if images[slot] == bad_id:
                assert image[1] == -1
            elif images[4 + slot] == bad_id:
                assert image[6] == plain[step][slot][6]
            else:
                assert image == undamaged[slot]


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_small_datasets_are_pasted_too(config, shards, batch):
    train = config.train.model_copy(update={"global_batch": batch})
    pasting = augmented(config.model_copy(update={"train": train}), copy_paste_probability=1.0)
    with open_local_stream(pasting, shards, 0, 1, 0, 3) as stream:
        assert [len(each.images) for each in stream] == [batch] * 3
        assert stream.bad_rows == []
