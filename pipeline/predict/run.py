"""Load the detector, predict on every input, and count, record and show the results."""

import contextlib
import logging
import time
from typing import Any

from pipeline.predict.detector import DrawingDetector, load_drawing_detector
from pipeline.predict.image_files import predict_files
from pipeline.predict.inputs import InputFile
from pipeline.predict.prepare import (
    WEBCAM_FILE,
    PreparedJob,
    Summary,
    record_files,
    video_modules,
)
from pipeline.predict.records import Records, open_records
from pipeline.predict.window import WindowClosedError
from pipeline.progress import show_progress

logger = logging.getLogger(__name__)


class PredictRun:
    """Runs a job that is prepared.

    Args:
        job: what to do.
        started_s: when the job started, `time.monotonic`.

    Attributes:
        summary: what was done so far.
    """

    def __init__(self, job: PreparedJob, started_s: float) -> None:
        self.config = job.config
        self.inputs = job.inputs
        self.output = job.output
        self.window = job.window
        self.summary = Summary()
        self._names = job.inputs.record_names()
        self._started_s = started_s

    def run(self) -> None:
        """Predict on everything; `summary` says what was done, also after an interruption.

        Raises:
            PredictError, ConfigError, WeightsError, StorageError: see the message.
        """
        with contextlib.ExitStack() as stack:
            if self.window is not None:
                stack.callback(self.window.close)
            camera = None
            if self.config.webcam is not None:
                # Opened before the detector is loaded, which takes seconds.
                camera = stack.enter_context(video_modules().open_camera(self.config.webcam))
            detector = load_drawing_detector(self.config)
            logger.info("detector loaded on %s: %s", detector.predictor.device, self.config.model)
            records = None
            if self.output is not None and record_files(self.config):
                files = open_records(self.config, detector.predictor, self.inputs, self.output)
                records = stack.enter_context(files)
                if self.config.annotations and self.inputs.videos:
                    logger.warning("frames of videos get no annotations, only images do")
            with contextlib.suppress(WindowClosedError):
                if camera is not None:
                    self._run_camera(detector, records, *camera)
                self._run_images(detector, records)
                for file in self.inputs.videos:
                    self._run_video(detector, records, file)

    def _run_images(self, detector: DrawingDetector, records: Records | None) -> None:
        files = self.inputs.images
        if not files:
            return
        batch = self._batch(detector)
        with show_progress("predicting", len(files), "images") as progress:
            for result in predict_files(detector, files, batch, self.output, self.config.crops):
                progress.add(1)
                if result.detections is None or result.drawn is None:
                    self._fail(result.file, result.error or "no result", records)
                    continue
                self.summary.images += 1
                self._count(len(result.detections))
                if records is not None:
                    records.add(self._names[result.file.url], result.detections)
                if self.window is not None:
                    self.window.show(result.drawn, result.file.source_name, wait=True)

    def _run_video(
        self, detector: DrawingDetector, records: Records | None, file: InputFile
    ) -> None:
        modules = video_modules()
        try:
            with modules.fetch_video(file.url) as reader:
                if reader.has_audio and self.output is not None:
                    logger.info("%s: its sound is not copied", file.source_name)
                job = modules.VideoJob(
                    detector, self._batch(detector), self.output, self.config.crops
                )
                frames = 0
                total = max(reader.stated_frames, 1)
                with show_progress(file.source_name, total, "frames") as progress:
                    for result in job.run(reader, file.name):
                        progress.add(1)
                        progress.total = max(progress.total, progress.done)
                        frames += self._add_frame(result, self._names[file.url], reader, records)
                    progress.total = progress.done
                if frames == 0 or reader.damage is not None:
                    self._fail(file, reader.damage or "no frame can be decoded", records)
                self.summary.videos += frames > 0
        except modules.UnreadableVideoError as error:
            self._fail(file, str(error), records)

    def _run_camera(
        self,
        detector: DrawingDetector,
        records: Records | None,
        reader: Any,
        live: Any,
    ) -> None:
        logger.info("predicting on camera %s; Ctrl-C ends it", self.config.webcam)
        job = video_modules().VideoJob(detector, 1, self.output, self.config.crops)
        try:
            for result in job.run(reader, WEBCAM_FILE, live):
                self._add_frame(result, WEBCAM_FILE, reader, records)
        finally:
            if live.dropped:
                logger.info("%d frames came while the detector was busy", live.dropped)

    def _add_frame(self, result: Any, name: str, reader: Any, records: Records | None) -> bool:
        """Count, record and show the result of a frame; return whether there is one."""
        if result.detections is None or result.drawn is None:
            logger.warning("%s, frame %d: %s", name, result.frame.number, result.error)
            return False
        self.summary.frames += 1
        self._count(len(result.detections))
        if records is not None:
            time_s = round(float(result.frame.pts * reader.time_base), 6)
            records.add_frame(name, result.detections, result.frame.number, time_s)
        if self.window is not None:
            self.window.show(result.drawn, name, wait=False)
        return True

    def _count(self, objects: int) -> None:
        self.summary.objects += objects
        if self.summary.first_result_s is None:
            self.summary.first_result_s = time.monotonic() - self._started_s

    def _fail(self, file: InputFile, reason: str, records: Records | None) -> None:
        logger.warning("%s: %s", file.url, reason)
        self.summary.failed[file.url] = reason
        if records is not None:
            records.add_failed(self._names[file.url], reason)

    def _batch(self, detector: DrawingDetector) -> int:
        # On a CPU a batch gains nothing, and its images are padded to one size.
        return self.config.batch or (1 if detector.predictor.device.type == "cpu" else 8)
