"""Cameras and live streams: always the newest frame, however slow the detector is."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.infer.video_reader import VideoFrame, VideoReader, open_video
from pipeline.predict.errors import PredictError


class LiveFrames:
    """Iterates over the newest frame of a source; frames that come meanwhile are dropped.

    Args:
        reader: an open camera, stream, or a file that stands in for one.
        paced: whether frames must be held back until their time; cameras do that themselves.
    """

    def __init__(self, reader: VideoReader, paced: bool) -> None:
        self.dropped = 0
        self._reader = reader
        self._paced = paced
        self._newest: VideoFrame | None = None
        self._error: BaseException | None = None
        self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="camera", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yield the newest frame each time, until the source ends."""
        while True:
            with self._changed:
                # With a timeout, because a wait without one cannot be interrupted on Windows.
                while self._newest is None and not self._is_over:
                    self._changed.wait(0.5)
                frame, self._newest = self._newest, None
            if frame is not None:
                yield frame
            elif self._error is not None:
                raise self._error
            else:
                return

    def close(self) -> None:
        """Stop reading."""
        self._is_over = True
        self._thread.join()

    def _run(self) -> None:
        started_s = time.monotonic()
        try:
            for frame in self._reader:
                if self._is_over:
                    return
                if self._paced:
                    due_s = started_s + float(frame.pts * self._reader.time_base)
                    time.sleep(max(0.0, due_s - time.monotonic()))
                with self._changed:
                    self.dropped += self._newest is not None
                    self._newest = frame
                    self._changed.notify()
        except BaseException as error:  # raised again where the frames are used
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify()


def find_device(source: str) -> Path | None:
    """Return the device of a camera; None for a stream or a file.

    Raises:
        PredictError: there is no such camera, or cameras cannot be read here.
    """
    device = Path(f"/dev/video{source}" if source.isdecimal() else source)
    if not (source.isdecimal() or source.startswith("/dev/")):
        return None
    if not sys.platform.startswith("linux"):
        raise PredictError(
            f"cameras are read on Linux only; got {source}. Pass the URL of a stream instead"
        )
    if not device.exists():
        others = ", ".join(sorted(path.name[5:] for path in Path("/dev").glob("video*")))
        hint = f"there are {others}" if others else "no camera is connected"
        raise PredictError(f"there is no camera {source} ({device}); {hint}")
    return device


@contextmanager
def open_camera(source: str) -> Iterator[tuple[VideoReader, LiveFrames]]:
    """Open a camera for a ``with`` block.

    Args:
        source: its number (0 is the first) or device, the URL of a live stream, or a video file,
            which is played at its own speed.

    Raises:
        PredictError: there is no such camera.
    """
    device = find_device(source)
    options = {} if device is None else {"format": "v4l2"}
    with open_video(device or source, f"camera {source}", **options) as reader:
        frames = LiveFrames(reader, paced=device is None and Path(source).is_file())
        try:
            yield reader, frames
        finally:
            frames.close()
