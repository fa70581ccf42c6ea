"""Shards as a stream of training batches: planned, read, decoded, augmented, padded."""

from pipeline.stream.collate import StreamBatch
from pipeline.stream.training_stream import (
    StreamError,
    TrainingStream,
    open_local_stream,
    open_stream,
)

__all__ = ["StreamBatch", "StreamError", "TrainingStream", "open_local_stream", "open_stream"]
