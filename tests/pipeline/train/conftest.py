import pytest
import torch


@pytest.fixture
def uninitialized_memory_is_nan():
    """Let torch fill new uninitialized tensors with NaN, so that reading one shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
