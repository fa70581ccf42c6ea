"""Every image of the input is accounted for, whatever its name, and every other file is counted."""

import shutil
from pathlib import Path

import boto3
import pytest

from model.images.decode import IMAGE_SUFFIXES
from pipeline import storage
from pipeline.infer import image_listing
from pipeline.infer.image_listing import ImageListing
from pipeline.infer.inputs import is_shard_folder, plan_shards, read_images
from pipeline.shards.manifest import read_manifest
from pipeline.storage.versions import FileVersion, file_url
from tests.pipeline.infer.folder_jobs import input_images, plan

NAMES = (
    "a b.jpg",
    "a%20b.jpg",
    "a#b?c=d&e+f.png",
    "day-1/x.JPG",
    "day/ünï/ćødé 日本.tiff",
    "day/x.jpg",
    "part-00000.parquet.jpg",
)


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


def test_every_image_of_a_nested_folder_is_in_one_chunk(images, tmp_path):
    chunks = list(plan(images, tmp_path / "output").unfinished())
    assert [chunk.name for chunk in chunks] == ["part-00000", "part-00001", "part-00002"]
    read = [image for chunk in chunks for image in read_images(chunk)]
    assert [image.image_id for image in read] == list(range(11))
    listed = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.jpg"))
    assert [image.file_name for image in read] == listed
    assert read[3].encoded == (images / read[3].file_name).read_bytes()
    assert list(plan(images, tmp_path / "output").unfinished()) == chunks


@pytest.mark.parametrize("location", ["path", "file", pytest.param("s3", marks=pytest.mark.s3)])
def test_images_of_any_name_are_read_under_their_own_name(request, tmp_path, location):
    base = {"path": str(tmp_path), "file": tmp_path.as_uri()}.get(location)
    base = base or request.getfixturevalue("s3")("inputs")
    folder = storage.join(base, "in")
    for name in NAMES:
        storage.write_bytes(file_url(folder, name), name.encode())
    storage.write_bytes(storage.join(base, "in-2/other.jpg"), b"of a longer prefix")
    if location == "s3":
        bucket, _, prefix = folder.removeprefix("s3://").partition("/")
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/folder.jpg/", Body=b"")
    read = {image.file_name: image.encoded for image in input_images(folder)}
    assert read == {name: name.encode() for name in NAMES}


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_format_that_training_reads_is_read(tmp_path, suffix):
    for name in (f"a{suffix}", f"b{suffix.upper()}"):
        (tmp_path / name).write_bytes(b"")
    assert len(input_images(tmp_path)) == 2


def test_files_that_are_no_images_are_counted_by_suffix(tmp_path):
    for name in ("a.jpg", "b.txt", "c.TXT", "sub/d.json", "README", ".hidden", "e.jpg.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "\udcff.jpg").write_bytes(b"")  # Parquet cannot hold its name
    planned = plan(tmp_path, tmp_path / "output")
    assert planned.images == 1
    assert planned.skipped_files == {
        ".txt": 2,
        ".json": 1,
        "(no suffix)": 2,
        ".part": 1,
        "(name is not UTF-8)": 1,
    }


@pytest.mark.parametrize("inside", ["", "predictions", "a/b"])
def test_drawn_images_of_an_output_inside_the_input_are_no_inputs(tmp_path, inside):
    storage.write_bytes(str(tmp_path / "a.jpg"), b"")
    output = tmp_path / inside
    storage.write_bytes(str(output / "pictures" / "00_a.png"), b"")
    storage.write_bytes(str(output / "part-00000.parquet"), b"")
    listing = ImageListing(str(tmp_path), str(output))
    assert [file.name for file in listing] == ["a.jpg"]
    assert listing.skipped["(in the output folder)"] > 0


@pytest.mark.parametrize("location", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_a_single_image_is_one_chunk(request, images, tmp_path, location):
    url = str(next(images.rglob("*.jpg")))
    if location == "s3":
        url = request.getfixturevalue("s3")("one") + "/a b#c.jpg"
        storage.write_bytes(url, b"content")
        storage.write_bytes(url + "2.jpg", b"another")
    [chunk] = plan(url, tmp_path / "output").unfinished()
    [image] = read_images(chunk)
    assert (image.encoded, image.file_name) == (storage.read_bytes(url), url)


def test_a_missing_file_is_an_image_with_an_error(images, tmp_path):
    [chunk] = plan(images, tmp_path / "output", 64).unfinished()
    (images / chunk.files[2]).unlink()
    read = list(read_images(chunk))
    assert len(read) == 11
    assert [image.file_name for image in read if image.error] == [chunk.files[2]]


def test_each_shard_is_a_chunk(shapes_shards):
    assert is_shard_folder(shapes_shards)
    chunks = plan_shards(shapes_shards)
    files = read_manifest(shapes_shards).files
    assert [(chunk.images, chunk.identity, chunk.is_shard) for chunk in chunks] == [
        (file.rows, file.sha256, True) for file in files
    ]
    image_ids = [image.image_id for chunk in chunks for image in read_images(chunk)]
    assert sorted(image_ids) == list(range(1, 12))


def test_rows_of_a_damaged_shard_are_errors_that_name_the_shard(shapes_shards, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(shapes_shards, folder)
    chunks = plan_shards(str(folder))
    shard = folder / chunks[1].files[0]
    shard.write_bytes(shard.read_bytes()[:200])
    read = list(read_images(chunks[1]))
    assert len(read) == chunks[1].images
    assert all(shard.name in image.error and "damaged" in image.error for image in read)
    Path(folder / chunks[2].files[0]).unlink()
    assert all(image.error for image in read_images(chunks[2]))


def test_an_input_without_images_is_an_error_that_names_what_is_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither shards .* nor images"):
        plan(tmp_path, tmp_path / "output")
    (tmp_path / "photo.heic").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"other files: 1 \.heic"):
        plan(tmp_path, tmp_path / "output")
    with pytest.raises(FileNotFoundError, match="neither"):
        plan(tmp_path / "nowhere", tmp_path / "output")


def test_objects_whose_keys_cannot_be_read_safely_are_counted(monkeypatch):
    """Clients drop empty parts: "a//b.jpg" would be read from "a/b.jpg", another object."""
    names = ("/a.jpg", "b//c.jpg", "./d.jpg", "e/../f.jpg", "g.jpg", "h..jpg", ".i/j.jpg")
    files = [FileVersion(name, "etag") for name in names]
    monkeypatch.setattr(image_listing, "list_versions", lambda url: iter(files))
    listing = ImageListing("s3://bucket/images")
    assert [file.name for file in listing] == ["g.jpg", "h..jpg", ".i/j.jpg"]
    assert listing.skipped == {"(name with an empty, . or .. part)": 4}
