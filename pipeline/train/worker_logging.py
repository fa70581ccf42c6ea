"""What a worker of a training prints."""

import logging
import sys
import warnings
from pathlib import Path

import ray.train


def configure_logging(rank: int) -> None:
    """Print rank 0's log lines and every rank's warnings to stdout, which Ray shows the driver.

    Only rank 0 prints warnings about the weights.
    """
    package = logging.getLogger("pipeline")
    package.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    if not package.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        package.addHandler(handler)
        package.propagate = False
    # Every rank loads the same weights and would repeat the same warnings.
    logging.getLogger("model.weights").setLevel(logging.WARNING if rank == 0 else logging.ERROR)
    # Ray would print every report in full; it names this logger after its file.
    reports = Path(ray.train.__file__).parent / "v2" / "_internal" / "execution" / "context.py"
    logging.getLogger(str(reports)).setLevel(logging.WARNING)
    # The weight of a 1x1 convolution is both channels-last and contiguous, and DDP computes
    # different strides for the two.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # Its replacement does not exist in the older torch versions that we support.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
