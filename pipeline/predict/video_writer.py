"""Write frames to an MP4 file with PyAV. Shapes: H W pixels."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from model.images.decode import Pixels
from pipeline.predict.errors import PredictError

# Without B-frames, which would delay the first frame of a fragmented file.
_X264_OPTIONS = {"crf": "20", "preset": "veryfast", "bf": "0"}
_MAX_RATE = 1000  # frames a second; containers with wrong times state more


class VideoWriter:
    """An H.264 video whose frames have the times of the original.

    The file is written in fragments, so that it plays even if the process is killed.

    Args:
        path: of the file.
        rate: average frames per second.
        time_base: seconds per unit of time.
        aspect_ratio: width over height of a pixel; None or 0 if it is not known.
    """

    def __init__(
        self, path: Path, rate: Fraction, time_base: Fraction, aspect_ratio: Fraction | None
    ) -> None:
        self._path = path
        self._time_base = time_base
        self._rate = min(max(rate, Fraction(1)), Fraction(_MAX_RATE)).limit_denominator(1001)
        self._aspect_ratio = aspect_ratio
        self._stream: Any = None
        self._container: Any = None

    def write(self, pixels: Pixels, pts: int) -> None:
        """Add a frame, (H, W, 3) uint8 RGB, at a time later than the frame before.

        Raises:
            PredictError: the file cannot be written.
        """
        # Players need even sides; an odd one repeats its last row or column.
        height, width = pixels.shape[:2]
        if height % 2 or width % 2:
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            if self._container is None:
                self._open(pixels.shape[1], pixels.shape[0])
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = pts, self._time_base
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError) as error:
            raise PredictError(f"cannot write {self._path}: {error.strerror}") from None

    def close(self) -> None:
        """Complete the file.

        Raises:
            PredictError: it cannot be written.
        """
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
        except (av.error.FFmpegError, OSError) as error:
            raise PredictError(f"cannot write {self._path}: {error.strerror}") from None
        finally:
            self._container = None

    def _open(self, width: int, height: int) -> None:
        flags = {"movflags": "+frag_keyframe+hybrid_fragmented"}
        self._container = av.open(str(self._path), "w", format="mp4", options=flags)
        # PyAV's wheels have x264; an FFmpeg without it always has MPEG-4.
        has_x264 = "libx264" in av.codecs_available
        codec, options = ("libx264", _X264_OPTIONS) if has_x264 else ("mpeg4", {"qscale": "3"})
        self._stream = self._container.add_stream(codec, rate=self._rate, options=options)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = self._time_base
        self._stream.codec_context.gop_size = max(1, round(2 * self._rate))
        if self._aspect_ratio:
            self._stream.codec_context.sample_aspect_ratio = self._aspect_ratio
