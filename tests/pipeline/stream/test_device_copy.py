"""Batches are copied to a GPU while it computes. Needs neither shards nor Ray."""

import pytest
import torch

from model.structures import ImageSize
from model.structures.transfer import tensors_of
from pipeline.stream.augmentation.apply import TrainingSample
from pipeline.stream.augmentation.parameters import Augmentation
from pipeline.stream.buffers import allocator
from pipeline.stream.collate import collate
from pipeline.stream.device_copy import DeviceCopier
from tests.golden.cases import SIZES, golden_images, golden_targets


def make_batch(step, device):
    """Return a batch of images with polygons, run lengths and no objects."""
    samples = [
        TrainingSample(torch.from_numpy(image), target, size)
        for image, target, size in zip(golden_images(), golden_targets(), SIZES, strict=True)
    ][:3]
    augmentations = [Augmentation(sample.original_size, flip=bool(step % 2)) for sample in samples]
    canvas, seeds = ImageSize(64 + 32 * step, 96), (11, 12, 13)
    return collate(
        samples, augmentations, seeds, canvas, step, (0, 1, 2), allocate=allocator(device)
    )


def tensors(batch):
    return tensors_of(batch.images) + tensors_of(batch.targets)


def test_on_a_cpu_the_batch_itself_is_passed_on():
    batch = make_batch(0, torch.device("cpu"))
    assert DeviceCopier(torch.device("cpu")).start(batch).wait() is batch


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_copies_neither_wait_for_the_gpu_nor_change_a_batch():
    device = torch.device("cuda")
    copier = DeviceCopier(device)
    copier.start(make_batch(0, device)).wait()  # allocates memory, which may wait
    batches = [make_batch(step, device) for step in range(4)]
    assert all(batch.buffer.is_pinned() for batch in batches)
    busy = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        # The copies run on a stream of their own beside this work.
        for _ in range(20):
            busy = busy @ busy / 64
        copies = [copier.start(batch) for batch in batches]
        on_gpu = [copy.wait() for copy in copies]
        read = [[tensor.clone() for tensor in tensors(batch)] for batch in on_gpu]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for batch, copied, clones in zip(batches, on_gpu, read, strict=True):
        assert (copied.step, copied.images.sizes) == (batch.step, batch.images.sizes)
        for tensor, clone in zip(tensors(batch), clones, strict=True):
            assert clone.is_cuda
            assert clone.cpu().equal(tensor)
