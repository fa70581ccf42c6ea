"""All that needs PyAV, so that it is imported only for videos and cameras."""

from pipeline.infer.video_reader import UnreadableVideoError, VideoReader, fetch_video
from pipeline.predict.camera import find_device, open_camera
from pipeline.predict.video_files import FrameResult, VideoJob

__all__ = [
    "FrameResult",
    "UnreadableVideoError",
    "VideoJob",
    "VideoReader",
    "fetch_video",
    "find_device",
    "open_camera",
]
