"""Each frame of a video is an image, read in any order of chunks."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipeline import storage
from pipeline.infer.detection_files import write_detection_rows
from pipeline.infer.inputs import read_images
from pipeline.infer.ledger import LedgerEntry, output_url, write_entry
from pipeline.infer.sources.video_file import VideoFrames
from tests.pipeline.infer.folder_jobs import plan
from tests.pipeline.predict.conftest import clip  # noqa: F401


def brightness(image):
    pixels = image.decode()
    return float(np.median(pixels[pixels.shape[0] // 2 :]))


def expected(count):
    return pytest.approx([40 + 4 * n for n in range(count)], abs=3)


@pytest.mark.parametrize("location", ["local", pytest.param("s3", marks=pytest.mark.s3)])
@pytest.mark.parametrize("backward", [False, True])
def test_frames_are_images_with_their_number_as_id(request, clip, tmp_path, location, backward):  # noqa: F811
    url = str(clip())
    if location == "s3":
        url = request.getfixturevalue("s3")("video") + "/clip.mp4"
        storage.upload_file(tmp_path / "clip.mp4", url)
    source = VideoFrames(url)
    planned = plan(lambda: source, tmp_path / "out", 5)
    chunks = list(planned.unfinished())
    assert (planned.input_images, [chunk.images for chunk in chunks]) == (12, [5, 5, 2])
    read = {}
    for chunk in chunks[::-1] if backward else chunks:
        for image in read_images(chunk):
            read[image.image_id] = (image.file_name, brightness(image), image.version)
    assert [read[n][0] for n in range(12)] == [f"clip.mp4[{n}]" for n in range(12)]
    assert [read[n][1] for n in range(12)] == expected(12)
    assert len({version for _, _, version in read.values()}) == 1
    assert list(plan(lambda: VideoFrames(url), tmp_path / "out", 5).unfinished()) == chunks


def test_a_frame_keeps_its_number_as_id_whatever_the_size_of_the_chunks(clip, tmp_path):  # noqa: F811
    """In chunks of another size, some of them finished before."""
    url, output = str(clip()), str(tmp_path / "out")
    chunks = list(plan(lambda: VideoFrames(url), output, 5).unfinished())
    for chunk in chunks[1:2]:
        write_detection_rows(output_url(output, chunk.name), [])
        entry = LedgerEntry(chunk.name, "", 5, 0, 0, 0, "model", chunk.files, chunk.versions)
        ids = {"image_ids": chunk.image_ids, "id_range": chunk.id_range}
        given = {"has_given_ids": chunk.has_given_ids}
        write_entry(output, replace(entry, **ids, **given))
    again = plan(lambda: VideoFrames(url), output, 3)
    images = [image for chunk in again.unfinished() for image in read_images(chunk)]
    assert {image.image_id: image.file_name for image in images} == {
        n: f"clip.mp4[{n}]" for n in range(12)
    }


def test_a_video_that_is_gone_in_the_middle_is_failed_rows(clip, tmp_path):  # noqa: F811
    path = clip()
    [chunk] = plan(lambda: VideoFrames(str(path)), tmp_path / "out", 64).unfinished()
    frames = read_images(chunk)
    assert [next(frames).error for _ in range(6)] == [None] * 6
    path.unlink()
    # A worker that takes over an earlier chunk goes back, which opens the file again.
    assert all("clip.mp4: no such file" in image.error for image in read_images(chunk))


def test_of_a_damaged_video_the_readable_frames_are_images(clip, tmp_path, caplog):  # noqa: F811
    path = clip(times=range(100))
    content = path.read_bytes()
    start = content.index(b"mdat")
    path.write_bytes(content[: start + 300] + bytes(600) + content[start + 900 :])
    source = VideoFrames(str(path))
    planned = plan(lambda: source, tmp_path / "out", 64)
    images = [image for chunk in planned.unfinished() for image in read_images(chunk)]
    assert len(images) == planned.images > 0
    assert all(image.error is None and image.decode().shape == (48, 64, 3) for image in images)
    [reason] = planned.skipped_files
    assert reason.startswith("(frames that cannot be read: ")
    assert "clip.mp4: " in caplog.text


def test_what_is_no_video_is_refused_and_one_that_changes_stops_the_job(clip, tmp_path):  # noqa: F811
    path = clip()
    [chunk] = plan(lambda: VideoFrames(str(path)), tmp_path / "out", 64).unfinished()
    shutil.copyfile(clip("other.mp4", range(5)), path)
    with pytest.raises(storage.StorageError, match=r"clip.mp4 changed while the job was running"):
        list(read_images(chunk))
    path.write_bytes(b"no video")
    with pytest.raises(storage.StorageError, match=r"clip.mp4: cannot be opened as a video"):
        list(VideoFrames(str(path)))
    path.unlink()
    with pytest.raises(storage.MissingFileError):
        list(VideoFrames(str(path)))
