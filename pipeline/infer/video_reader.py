"""Read frames of videos, cameras and live streams with PyAV. Shapes: H W pixels."""

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np

from model.images.decode import Pixels
from pipeline import storage

DEFAULT_RATE = Fraction(25)
_MISSING_SHARE = 0.02  # containers round the number of frames that they state


class UnreadableVideoError(storage.StorageError):
    """A video or camera cannot be opened; the message names it."""


@dataclass(frozen=True)
class VideoFrame:
    """One frame; its pixels are converted in a thread.

    Args:
        number: from 0.
        pts: time of presentation, in units of the stream's time base, from 0.
        size: width and height to convert to, before the frame is turned upright.
        raw: PyAV's frame.
    """

    number: int
    pts: int
    size: tuple[int, int]
    raw: Any
    error: None = None

    def decode(self) -> Pixels:
        """Return (H, W, 3) uint8 RGB, turned upright."""
        width, height = self.size
        pixels = self.raw.to_ndarray(format="rgb24", width=width, height=height)
        turns = round(self.raw.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns))


class VideoReader:
    """The frames of an open video.

    Args:
        container: PyAV's input container.
        name: for errors.

    Attributes:
        rate: average frames per second.
        time_base: seconds per unit of ``pts``.
        stated_frames: number of frames that the file states, or follows from its duration; 0 if
            unknown.
        has_audio: whether there is sound.
        damage: after the last frame, why it was not the end of the video; None if it was.
    """

    def __init__(self, container: Any, name: str) -> None:
        if not container.streams.video:
            raise UnreadableVideoError(f"{name}: there is no video in it")
        self._container = container
        self._stream = container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate = self._stream.average_rate or self._stream.guessed_rate or DEFAULT_RATE
        self.time_base = self._stream.time_base or 1 / self.rate
        self.aspect_ratio = self._stream.sample_aspect_ratio
        self.has_audio = bool(container.streams.audio)
        self.stated_frames = self._stream.frames or self._frames_from_duration()
        self.damage: str | None = None

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yield frames in the order of presentation; times increase."""
        number, start, last = 0, None, -1
        size = None
        for raw in self._decoded():
            pts = raw.pts
            if pts is None:
                pts = last + max(1, round(1 / (self.rate * self.time_base)))
            start = pts if start is None else start
            last = max(last + 1, pts - start)  # damaged files repeat times
            size = size or (raw.width, raw.height)
            yield VideoFrame(number, last, size, raw)
            number += 1
        if number < self.stated_frames * (1 - _MISSING_SHARE) - 1:
            self.damage = f"it ends after {number} of {self.stated_frames} frames"

    def _decoded(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        damaged = 0
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self.damage = f"it cannot be read to its end ({error.strerror})"
                return
            if packet is None:
                break
            try:
                yield from packet.decode()
            except av.error.FFmpegError:
                damaged += 1  # the next key frame may be fine
        if damaged:
            self.damage = f"{damaged} of its packets cannot be decoded"

    def _frames_from_duration(self) -> int:
        if self._stream.duration is not None:
            return int(self._stream.duration * self._stream.time_base * self.rate)
        # That of the container is the duration of the longest stream, which may be the sound.
        if self._container.duration is not None and not self.has_audio:
            return int(Fraction(self._container.duration, av.time_base) * self.rate)
        return 0


@contextmanager
def open_video(source: str | Path, name: str, **options: Any) -> Iterator[VideoReader]:
    """Open a video for a ``with`` block.

    Args:
        source: path or URL.
        name: for errors.
        options: of ``av.open``.

    Raises:
        UnreadableVideoError: it cannot be opened, or has no video.
    """
    try:
        container = av.open(str(source), **options)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableVideoError(f"{name}: cannot be opened as a video ({reason})") from None
    with container:
        yield VideoReader(container, name)


@contextmanager
def fetch_video(url: str) -> Iterator[VideoReader]:
    """Open a video file at a path or s3:// URL for a ``with`` block.

    Raises:
        UnreadableVideoError: it cannot be opened, or has no video.
        StorageError: the store cannot be read.
    """
    with storage.fetch(url) as path, open_video(path, posixpath.basename(url)) as reader:
        yield reader
