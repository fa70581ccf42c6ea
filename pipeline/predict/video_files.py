"""Predict on the frames of a video or camera: read, draw and encode in threads."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from model import Detections
from model.images.decode import Pixels
from pipeline.infer.detection_stream import ImagePrediction, predict_images
from pipeline.infer.video_reader import VideoFrame, VideoReader
from pipeline.predict.detector import DrawingDetector
from pipeline.predict.output import Output
from pipeline.predict.threads import map_in_threads, read_ahead
from pipeline.predict.video_writer import VideoWriter

_READ_AHEAD = 8  # frames
_UNFINISHED = 4  # frames drawn or encoded while the detector goes on


@dataclass(frozen=True)
class FrameResult:
    """The result of one frame.

    Args:
        frame: the frame.
        detections: those of the wanted classes and scores; None if there is an ``error``.
        drawn: (H, W, 3) uint8 RGB, or None.
        error: why there are no detections.
    """

    frame: VideoFrame
    detections: Detections | None
    drawn: Pixels | None = None
    error: str | None = None


@dataclass(frozen=True)
class VideoJob:
    """How the frames of a source are predicted on.

    Args:
        detector: detects and draws.
        batch: frames per forward pass.
        output: where to write; None to only draw.
        crops: whether to write crops of each frame.
    """

    detector: DrawingDetector
    batch: int
    output: Output | None
    crops: bool

    def run(
        self, reader: VideoReader, name: str, live: Iterable[VideoFrame] | None = None
    ) -> Iterator[FrameResult]:
        """Predict on all frames; the video is written as they are yielded.

        Args:
            reader: an open video.
            name: of the result.
            live: the newest frames, if the source is live.

        Yields:
            The result of each frame, in order.

        Raises:
            PredictError, StorageError: a result cannot be written.
        """
        writer = None
        if self.output is not None:
            path = self.output.local_file(name)
            writer = VideoWriter(path, reader.rate, reader.time_base, reader.aspect_ratio)
        try:
            yield from self._results(reader, name, writer, live)
        finally:
            if writer is not None:
                writer.close()

    def _results(
        self,
        reader: VideoReader,
        name: str,
        writer: VideoWriter | None,
        live: Iterable[VideoFrame] | None,
    ) -> Iterator[FrameResult]:
        def draw(prediction: ImagePrediction[VideoFrame]) -> FrameResult:
            frame, pixels = prediction.image, prediction.pixels
            if prediction.detections is None or pixels is None:
                return FrameResult(frame, None, error=prediction.error)
            kept = self.detector.select(prediction.detections)
            # A video keeps its size, however small.
            drawn = self.detector.draw(pixels, kept, min_short_side=0)
            if self.output is not None and self.crops:
                crops = self.detector.crops(pixels, kept)
                stem = PurePosixPath(name).with_suffix("")
                self.output.write_crops(f"{stem}_{frame.number:06d}.png", crops)
            return FrameResult(frame, kept, drawn)

        def encode(result: FrameResult) -> FrameResult:
            if writer is not None and result.drawn is not None:
                writer.write(result.drawn, result.frame.pts)
            return result

        # The frames of a live source would be old if they waited.
        ahead, unfinished = (None, _UNFINISHED) if live is None else (0, 0)
        window = 1 if self.batch == 1 or live is not None else 2
        with contextlib.ExitStack() as stack:
            frames = live
            if frames is None:
                frames = stack.enter_context(read_ahead(iter(reader), _READ_AHEAD))
            batch = self.batch if live is None else 1
            predictions = predict_images(self.detector.predictor, frames, batch, window, ahead)
            threads = min(4, os.cpu_count() or 1)
            drawn = map_in_threads(draw, predictions, threads, unfinished)
            yield from map_in_threads(encode, drawn, 1, unfinished)
