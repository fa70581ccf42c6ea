"""Videos with known frames, and the job run as users run it."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from workflows import predict


@pytest.fixture
def predict_job(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """Run the job in its own folder; returns the exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=tiny_checkpoint):
        status = predict.main([str(model), "--min-score", "0", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(status), captured.out, captured.err

    return run


@pytest.fixture
def photo(tmp_path):
    """Write an image of noise with a sharp pattern, in the mode and format of a name."""

    def write(name, size=(80, 60), mode="RGB", seed=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)
        return path

    return write


@pytest.fixture
def clip(tmp_path):
    """Write a video whose frame n is dark at the top and has brightness 40 + 4 n below."""

    def write(name="clip.mp4", times=range(12), size=(64, 48), rotation=0, rate=25, sound=False):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p" if not any(side % 2 for side in size) else "yuv444p"
            stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
            if rotation:
                stream.set_display_rotation(rotation)
            audio = container.add_stream("aac", rate=8000) if sound else None
            for number, time in enumerate(times):
                pixels = np.full((size[1], size[0], 3), 40 + 4 * (number % 50), np.uint8)
                pixels[: size[1] // 4] = 0
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if audio is not None:
                silence = np.zeros((1, 8000), np.float32)
                sound_frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
                sound_frame.sample_rate = 8000
                container.mux([*audio.encode(sound_frame), *audio.encode()])
        return path

    return write
