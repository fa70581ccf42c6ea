"""The same folder is always split into the same chunks, and every image is accounted for."""

import shutil
from pathlib import Path

import pytest

from pipeline.infer.inputs import plan_inputs, read_images
from pipeline.shards.manifest import read_manifest


@pytest.fixture
def images(shapes_images, tmp_path):
    """A nested copy of the drawn images, which a test may change."""
    folder = tmp_path / "images"
    for number, path in enumerate(sorted(shapes_images[1].iterdir())):
        target = folder / f"day{number % 2}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_every_image_of_a_nested_folder_is_in_one_chunk(images):
    chunks = plan_inputs(str(images), images_per_chunk=4)
    assert [chunk.name for chunk in chunks] == ["part-00000", "part-00001", "part-00002"]
    read = [image for chunk in chunks for image in read_images(chunk)]
    assert [image.image_id for image in read] == list(range(11))
    listed = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.jpg"))
    assert [image.file_name for image in read] == listed
    assert read[3].encoded == (images / read[3].file_name).read_bytes()
    assert plan_inputs(str(images), 4) == chunks


def test_a_changed_file_changes_only_its_own_chunk(images):
    before = plan_inputs(str(images), 4)
    changed = images / before[1].files[0]
    changed.write_bytes(changed.read_bytes()[:-20])
    after = plan_inputs(str(images), 4)
    assert [a.identity == b.identity for a, b in zip(before, after, strict=True)] == [
        True,
        False,
        True,
    ]


def test_an_image_that_is_redrawn_at_the_same_size_changes_its_chunk(images):
    before = plan_inputs(str(images), 4)
    assert plan_inputs(str(images), 4) == before
    changed = images / before[1].files[0]
    data = bytearray(changed.read_bytes())
    data[-40] ^= 1
    changed.write_bytes(data)
    after = plan_inputs(str(images), 4)
    same = [a.identity == b.identity for a, b in zip(before, after, strict=True)]
    assert same == [True, False, True]


def test_a_single_image_is_one_chunk(images):
    path = next(images.rglob("*.jpg"))
    [chunk] = plan_inputs(str(path), 4)
    [image] = read_images(chunk)
    assert image.encoded == path.read_bytes()


def test_a_missing_file_is_an_image_with_an_error(images):
    [chunk] = plan_inputs(str(images), 64)
    (images / chunk.files[2]).unlink()
    read = list(read_images(chunk))
    assert len(read) == 11
    assert [image.file_name for image in read if image.error] == [chunk.files[2]]


def test_each_shard_is_a_chunk(shapes_shards):
    chunks = plan_inputs(shapes_shards, 64)
    files = read_manifest(shapes_shards).files
    assert [(chunk.images, chunk.identity) for chunk in chunks] == [
        (file.rows, file.sha256) for file in files
    ]
    image_ids = [image.image_id for chunk in chunks for image in read_images(chunk)]
    assert sorted(image_ids) == list(range(1, 12))


def test_rows_of_a_damaged_shard_are_errors_that_name_the_shard(shapes_shards, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(shapes_shards, folder)
    chunks = plan_inputs(str(folder), 64)
    shard = folder / chunks[1].files[0]
    shard.write_bytes(shard.read_bytes()[:200])
    read = list(read_images(chunks[1]))
    assert len(read) == chunks[1].images
    assert all(shard.name in image.error and "damaged" in image.error for image in read)
    Path(folder / chunks[2].files[0]).unlink()
    assert all(image.error for image in read_images(chunks[2]))


def test_an_input_without_images_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither shards .* nor images"):
        plan_inputs(str(tmp_path), 4)
