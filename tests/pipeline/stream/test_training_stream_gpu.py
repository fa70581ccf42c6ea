"""The stream's batches on a GPU are those on the CPU."""

import pytest
import torch

from pipeline.stream.training_stream import open_local_stream
from tests.pipeline.stream.reading import content, read


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_are_copied_to_the_gpu(config, shards):
    with open_local_stream(config, shards, 0, 1, 0, 13, "cuda") as stream:
        on_gpu = [batch.on_copied_buffer(batch.buffer.cpu()) for batch in stream]
    whole = read(open_local_stream, config, shards, 0, 1, 0, 13)
    assert [content(batch) for batch in on_gpu] == whole
