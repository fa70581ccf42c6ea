"""Copy batches to the device while it computes on earlier ones."""

from dataclasses import dataclass

import torch

from pipeline.stream.collate import StreamBatch


@dataclass(frozen=True)
class BatchCopy:
    """A batch on its way to the device.

    Args:
        batch: its tensors may be read after `wait`.
        copied: recorded after the copy; None if there was nothing to copy.
    """

    batch: StreamBatch
    copied: torch.cuda.Event | None = None

    def wait(self) -> StreamBatch:
        """Make the device's later work wait for the copy, not the host; return the batch."""
        if self.copied is not None:
            stream = torch.cuda.current_stream(self.batch.buffer.device)
            stream.wait_event(self.copied)
            # The buffer belongs to the other stream, which must not reuse it before this one ends.
            self.batch.buffer.record_stream(stream)
        return self.batch


class DeviceCopier:
    """Starts copies on a CUDA stream of its own; on the CPU there is nothing to copy.

    Args:
        device: where the batches are used.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, batch: StreamBatch) -> BatchCopy:
        """Start copying a batch, asynchronously if its buffer is in page-locked memory."""
        if self._stream is None:
            return BatchCopy(batch)
        with torch.cuda.stream(self._stream):
            buffer = batch.buffer.to(self.device, non_blocking=True)
            copied = self._stream.record_event()
        return BatchCopy(batch.on_copied_buffer(buffer), copied)
