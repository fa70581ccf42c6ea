"""The frames of a video file as images."""

import functools
import logging
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from model.images.decode import Pixels
from model.structures import Category
from pipeline import storage
from pipeline.infer.input_image import InputImage
from pipeline.infer.inputs import ImageReader, InputChunk
from pipeline.infer.listed_image import ListedImage
from pipeline.infer.sources.named_files import check_version, file_version
from pipeline.infer.video_reader import VideoFrame, VideoReader, fetch_video

logger = logging.getLogger(__name__)


class VideoFrames:
    """An `ImageSource`: frame n has the name ``video.mp4[n]`` and the id n.

    All frames are decoded once to count them: what a file states is often not exact.

    Args:
        url: of a video file.
    """

    categories: Sequence[Category] = ()

    def __init__(self, url: str) -> None:
        self.url = storage.absolute(url)
        self.images = 0
        self.skipped: Counter[str] = Counter()
        self.reader: ImageReader = read_frames

    def __iter__(self) -> Iterator[ListedImage]:
        """Yield the frames in the order of presentation.

        Raises:
            MissingFileError: there is no such file.
            UnreadableVideoError: it is no video.
            StorageError: the store cannot be read.
        """
        self.images, self.skipped = 0, Counter()
        version, name = file_version(self.url), self.url.rpartition("/")[2]
        with fetch_video(self.url) as video:
            for frame in video:
                self.images += 1
                yield ListedImage(f"{name}[{frame.number}]", version, frame.number)
        if video.damage is not None:
            logger.warning("%s: %s; its other frames are predicted on", self.url, video.damage)
            self.skipped[f"(frames that cannot be read: {video.damage})"] += 1

    def describe_empty(self) -> str:
        """Return the error for a video of which no frame can be decoded."""
        return f"{self.url}: no frame of the video can be decoded"

    def image_url(self, name: str) -> str | None:
        """Return None: a frame is no file."""
        del name
        return None


@dataclass(frozen=True)
class FrameImage(InputImage):
    """A frame of a video."""

    frame: VideoFrame | None = None

    def decode(self) -> Pixels:
        """Return the frame's pixels, (H, W, 3) uint8 RGB, turned upright."""
        if self.frame is None:
            return super().decode()
        return self.frame.decode()


def read_frames(chunk: InputChunk) -> Iterator[InputImage]:
    """Read the frames of a video; an `ImageReader`."""
    for number, (name, version) in enumerate(zip(chunk.files, chunk.versions, strict=True)):
        try:
            video = _open(chunk.folder_url, version)
            frame = video.find(int(name.rpartition("[")[2].removesuffix("]")))
        except storage.MissingFileError as error:
            yield chunk.image(number, error=str(error))
            continue
        reason = None if frame else f"{chunk.folder_url}: the video ends before {name}"
        image = chunk.image(number, error=reason)
        yield FrameImage(**vars(image), frame=frame)


# Chunks come in the order of the frames, so the next one goes on where the last has ended.
@functools.lru_cache(maxsize=1)
def _open(url: str, version: str) -> "_OpenVideo":
    return _OpenVideo(url, version)


class _OpenVideo:
    """The frames of a video, read forward; going back begins again.

    Raises:
        MissingFileError: the file is gone.
        StorageError: the file has changed, or cannot be read.
    """

    def __init__(self, url: str, version: str) -> None:
        check_version(url, version)
        self._url = url
        self._stack = ExitStack()
        # Closes the file, and deletes the copy of one in a bucket, at the end of the process too.
        weakref.finalize(self, self._stack.close)
        self._next = 0
        self._frames: Iterator[VideoFrame] | None = None
        self._frames = self._restart()

    def find(self, number: int) -> VideoFrame | None:
        """Return frame ``number``; None if the video ends before it.

        Raises:
            MissingFileError: the file is gone, and had to be opened again.
            StorageError: it cannot be read.
        """
        if self._frames is None or number < self._next:
            self._frames = self._restart()
        for frame in self._frames:
            self._next = frame.number + 1
            if frame.number == number:
                return frame
        return None

    def _restart(self) -> Iterator[VideoFrame]:
        # If the file cannot be opened again, nothing decodes the closed one, which would crash.
        self._frames, self._next = None, 0
        self._stack.close()
        reader: VideoReader = self._stack.enter_context(fetch_video(self._url))
        return iter(reader)
