"""A camera delivers its newest frame; without a camera or a display the job says so at once."""

import re
import sys
import time

import pytest

from pipeline.predict.camera import open_camera
from pipeline.predict.errors import PredictError
from pipeline.predict.window import ResultWindow
from tests.pipeline.predict.video_frames import read_frames


def test_a_slow_reader_gets_the_newest_frames_and_a_count_of_the_others(clip):
    source = clip(times=range(50), rate=50)  # one second
    numbers = []
    with open_camera(str(source)) as (_, frames):
        for frame in frames:
            numbers.append(frame.number)
            time.sleep(0.2)
    assert numbers == sorted(set(numbers))
    assert len(numbers) + frames.dropped == 50
    assert frames.dropped > 20


def test_a_fast_reader_waits_for_frames(clip):
    source = clip(times=range(10), rate=50)
    started = time.monotonic()
    with open_camera(str(source)) as (_, frames):
        count = sum(1 for _ in frames)
    assert count + frames.dropped == 10
    assert time.monotonic() - started >= 9 / 50  # at its own speed, not faster


def test_a_camera_is_recorded_with_the_times_of_its_frames(predict_job, clip, tmp_path):
    source = clip("live.mp4", times=range(30))
    status, output, errors = predict_job("--webcam", source, "--output", "out")
    assert status == 0
    frames = int(re.search(r"videos      0 \((\d+) frames\)", output)[1])
    times, pixels = read_frames(tmp_path / "out" / "webcam.mp4")
    assert len(pixels) == frames > 0
    assert all(round(time * 25) == pytest.approx(time * 25, abs=1e-3) for time in times)
    dropped = re.search(r"(\d+) frames came while the detector was busy", errors)
    assert frames + int(dropped[1] if dropped else 0) == 30


@pytest.mark.parametrize("camera", ["97", "/dev/video97"])
def test_a_missing_camera_is_named_before_pytorch_is_imported(predict_job, camera):
    status, _, errors = predict_job("--webcam", camera)
    assert status == 1
    last = errors.splitlines()[-1]
    assert "camera" in last and camera in last
    assert "loading PyTorch" not in errors


def test_without_a_display_showing_is_refused(predict_job, photo, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(PredictError, match="--output DIR"):
        ResultWindow()
    status, _, errors = predict_job(photo("a.png"), "--show")
    assert status == 1
    assert "use --output DIR" in errors.splitlines()[-1]


def test_a_python_without_tk_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(PredictError, match="python3-tk"):
        ResultWindow()


def test_videos_without_pyav_name_the_extra(predict_job, clip, monkeypatch):
    path = clip()
    for name in [name for name in sys.modules if name.startswith("pipeline.predict.video")]:
        monkeypatch.delitem(sys.modules, name)
    import pipeline.predict

    monkeypatch.delattr(pipeline.predict, "videos", raising=False)
    monkeypatch.setitem(sys.modules, "av", None)
    status, _, errors = predict_job(path)
    assert status == 2
    assert "pip install 'maskrcnn-ray[video]'" in errors.splitlines()[-1]
