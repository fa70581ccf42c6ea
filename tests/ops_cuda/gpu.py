"""Copies of tensors on the GPU."""

import torch


def on_gpu(value):
    """Copy a tensor, or all tensors of a nested list or tuple; return other values unchanged."""
    match value:
        case torch.Tensor():
            return value.detach().cuda().requires_grad_(value.requires_grad)
        case list() | tuple():
            return type(value)(on_gpu(each) for each in value)
        case _:
            return value
