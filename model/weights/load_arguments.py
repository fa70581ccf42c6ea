"""Checks of the arguments of ``load_detector``, before a file is read."""

from pathlib import Path

import torch

from model.config import ModelConfig
from model.config.settings import short_repr


def check_source(source: object) -> None:
    """Raise unless ``source`` can name weights.

    Raises:
        TypeError: it is neither a string nor a path.
        ValueError: it is empty, or has a NUL character.
    """
    if not isinstance(source, str | Path):
        raise TypeError(
            "source must be the path or address of weights, such as "
            f"'runs/quickstart/train/step_00000900'; got {short_repr(source)}"
        )
    if not str(source).strip() or "\0" in str(source):
        raise ValueError(f"source must be the path or address of weights; got {source!r}")


def check_config(config: object) -> None:
    """Raise unless ``config`` is a config, the path of one, or None.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(config, str | Path | ModelConfig | None):
        raise TypeError(
            "config must be the path of a YAML file with a model section, or a ModelConfig; "
            f"got {short_repr(config)}"
        )


def check_device(device: object) -> torch.device:
    """Return the device that the argument names.

    Raises:
        TypeError: it is neither a string nor a device.
        ValueError: there is no such device, or not on this machine.
    """
    expected = "device must be 'cpu', 'cuda' or 'cuda:N'"
    if not isinstance(device, str | torch.device):
        raise TypeError(f"{expected}; got {short_repr(device)}")
    try:
        checked = torch.device(device)
    except RuntimeError:  # torch lists two dozen types of devices
        raise ValueError(f"{expected}; got {short_repr(device)}") from None
    # "meta" has shapes without values; tests use it.
    if checked.type not in ("cpu", "cuda", "meta"):
        raise ValueError(f"{expected}; got {short_repr(device)}")
    if checked.type == "cuda":
        gpus = torch.cuda.device_count()
        if not gpus:
            raise ValueError(f"device is {str(checked)!r}, but torch finds no GPU on this machine")
        if checked.index is not None and checked.index >= gpus:
            raise ValueError(
                f"device is {str(checked)!r}, but this machine has only {gpus} GPUs (0..{gpus - 1})"
            )
    return checked
