"""The same folder always falls into the same pieces, and every image of them is accounted for."""

import shutil
from pathlib import Path

import pytest

from pipeline.infer.inputs import plan_inputs, read_images
from pipeline.shards.manifest import read_manifest


@pytest.fixture
def images(shapes_images, tmp_path):
    """A private, nested copy of the drawn pictures."""
    folder = tmp_path / "images"
    for number, path in enumerate(sorted(shapes_images[1].iterdir())):
        target = folder / f"day{number % 2}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_every_image_of_a_nested_folder_is_in_one_piece(images):
    pieces = plan_inputs(str(images), images_per_piece=4)
    assert [piece.name for piece in pieces] == ["part-00000", "part-00001", "part-00002"]
    found = [image for piece in pieces for image in read_images(piece)]
    assert [image.image_id for image in found] == list(range(11))
    listed = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.jpg"))
    assert [image.file_name for image in found] == listed
    assert found[3].encoded == (images / found[3].file_name).read_bytes()
    assert plan_inputs(str(images), 4) == pieces


def test_a_changed_file_changes_its_own_piece_only(images):
    before = plan_inputs(str(images), 4)
    changed = images / before[1].files[0]
    changed.write_bytes(changed.read_bytes()[:-20])
    after = plan_inputs(str(images), 4)
    assert [a.identity == b.identity for a, b in zip(before, after, strict=True)] == [
        True,
        False,
        True,
    ]


def test_a_single_image_is_a_piece_of_its_own(images):
    path = next(images.rglob("*.jpg"))
    [piece] = plan_inputs(str(path), 4)
    [image] = read_images(piece)
    assert image.encoded == path.read_bytes()


def test_a_file_that_vanished_is_an_image_with_an_error(images):
    [piece] = plan_inputs(str(images), 64)
    (images / piece.files[2]).unlink()
    found = list(read_images(piece))
    assert len(found) == 11
    assert [image.file_name for image in found if image.error] == [piece.files[2]]


def test_shards_are_their_own_pieces(shapes_shards):
    pieces = plan_inputs(shapes_shards, 64)
    files = read_manifest(shapes_shards).files
    assert [(piece.images, piece.identity) for piece in pieces] == [
        (file.rows, file.sha256) for file in files
    ]
    assert sorted(image.image_id for piece in pieces for image in read_images(piece)) == list(
        range(1, 12)
    )


def test_the_rows_of_a_damaged_shard_are_errors_that_name_it(shapes_shards, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(shapes_shards, folder)
    pieces = plan_inputs(str(folder), 64)
    shard = folder / pieces[1].files[0]
    shard.write_bytes(shard.read_bytes()[:200])
    found = list(read_images(pieces[1]))
    assert len(found) == pieces[1].images
    assert all(shard.name in image.error and "damaged" in image.error for image in found)
    Path(folder / pieces[2].files[0]).unlink()
    assert all(image.error for image in read_images(pieces[2]))


def test_nothing_to_predict_on_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither shards .* nor images"):
        plan_inputs(str(tmp_path), 4)
