"""Videos keep their frames, times and orientation; of damaged ones, what can be read is kept."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.infer.video_reader import open_video
from pipeline.predict import video_files
from tests.pipeline.predict.video_frames import read_frames

ROOT = Path(__file__).resolve().parents[3]


def brightness(frames):
    return [float(np.median(frame[frame.shape[0] // 2 :])) for frame in frames]


@pytest.mark.parametrize("batch", [1, 3])
def test_frames_keep_their_order_and_their_uneven_times(predict_job, clip, tmp_path, batch):
    times = [0, 1, 2, 5, 6, 12, 13, 14, 20, 21, 22, 40]
    source = clip(times=times)
    status, output, _ = predict_job(
        source, "--output", "out", "--json", "--min-score", "1", "--batch", batch
    )
    assert status == 0
    assert "videos      1 (12 frames)" in output
    written, frames = read_frames(tmp_path / "out" / "clip.mp4")
    assert written == pytest.approx([time / 25 for time in times], abs=1e-3)
    assert brightness(frames) == pytest.approx([40 + 4 * n for n in range(12)], abs=3)
    images = json.loads((tmp_path / "out" / "coco_images.json").read_text())
    assert [image["frame"] for image in images] == list(range(12))
    assert [image["time_s"] for image in images] == pytest.approx(written, abs=1e-6)


def test_objects_are_drawn_on_the_frames(predict_job, clip, tmp_path):
    status, _, _ = predict_job(clip(), "--output", "out", "--crops")
    assert status == 0
    _, frames = read_frames(tmp_path / "out" / "clip.mp4")
    assert all(np.ptp(frame.astype(int), axis=2).max() > 60 for frame in frames)  # colors
    names = {path.stem for path in (tmp_path / "out" / "crops").rglob("*.png")}
    assert {"clip_000000_00", "clip_000011_00"} <= names


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_turned_video_is_upright_afterwards(predict_job, clip, tmp_path, rotation):
    source = clip(rotation=rotation)
    assert predict_job(source, "--output", "out", "--min-score", "1")[0] == 0
    _, [expected, *_] = read_frames(source)
    _, [drawn, *_] = read_frames(tmp_path / "out" / "clip.mp4")
    assert expected.shape == drawn.shape == ((48, 64, 3) if rotation == 180 else (64, 48, 3))
    assert np.abs(drawn.astype(int) - expected).mean() < 3
    # The band at the top of the stored frame, after a turn counterclockwise.
    side = {90: drawn[:, :8], 180: drawn[-8:], -90: drawn[:, -8:]}[rotation]
    assert side.max() < 30 < np.median(drawn)


def test_odd_sides_lose_nothing(predict_job, clip, tmp_path):
    source = clip("odd.mkv", size=(63, 47))
    assert predict_job(source, "--output", "out", "--min-score", "1")[0] == 0
    _, [expected, *_] = read_frames(source)
    _, [drawn, *_] = read_frames(tmp_path / "out" / "odd.mp4")
    assert (expected.shape, drawn.shape) == ((47, 63, 3), (48, 64, 3))
    assert np.abs(drawn[:47, :63].astype(int) - expected).mean() < 3


def test_lost_sound_is_said(predict_job, clip):
    assert "clip.mp4: its sound is not copied" in predict_job(clip(sound=True))[2]


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_a_video_cut_off_is_named_and_kept_as_far_as_it_goes(predict_job, clip, tmp_path, suffix):
    source = clip(f"clip.{suffix}", times=range(100), size=(160, 120))
    content = source.read_bytes()
    source.write_bytes(content[: len(content) // 2])
    status, output, errors = predict_job(source, "--output", "out", "--min-score", "1")
    assert status == 5
    assert "unreadable  1" in output
    assert f"clip.{suffix}: it ends after" in errors or "cannot be" in errors
    _, frames = read_frames(tmp_path / "out" / "clip.mp4")
    assert 5 < len(frames) < 100


def test_what_is_no_video_is_named(predict_job, clip, tmp_path, photo):
    good, empty, text = clip(), tmp_path / "empty.mp4", tmp_path / "text.mov"
    empty.write_bytes(b"")
    text.write_text("not a video")
    cut = tmp_path / "cut.mp4"  # its index was at the end
    content = good.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    status, output, errors = predict_job(empty, good, text, cut, photo("a.png"), "--output", "out")
    assert status == 5
    assert "images      1" in output and "videos      1 (12 frames)" in output
    for path in (empty, text, cut):
        assert f"{path}: " in errors
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "clip.mp4"]


def test_an_interrupted_video_plays_as_far_as_it_was_done(predict_job, clip, tmp_path, monkeypatch):
    whole = video_files.predict_images

    def interrupted(*arguments):
        for number, prediction in enumerate(whole(*arguments)):
            if number == 7:
                raise KeyboardInterrupt
            yield prediction

    monkeypatch.setattr(video_files, "predict_images", interrupted)
    status, output, _ = predict_job(clip(), "--output", "out", "--min-score", "1")
    assert status == 130
    assert "(7 frames)" in output
    assert len(read_frames(tmp_path / "out" / "clip.mp4")[1]) == 7


def test_a_killed_job_leaves_a_video_that_plays(clip, tmp_path):
    """A writer is killed between two frames, without any chance to complete the file."""
    code = (
        "import os, sys, numpy as np\n"
        "from fractions import Fraction\n"
        "from pathlib import Path\n"
        "from pipeline.predict.video_writer import VideoWriter\n"
        "writer = VideoWriter(Path(sys.argv[1]), Fraction(25), Fraction(1, 25), None)\n"
        "rng = np.random.default_rng(0)\n"
        "for number in range(250):\n"
        "    writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8), number)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.run([sys.executable, "-c", code, tmp_path / "killed.mp4"], cwd=ROOT)
    assert process.returncode == -signal.SIGKILL
    with open_video(tmp_path / "killed.mp4", "killed.mp4") as reader:
        assert sum(1 for _ in reader) >= 100
