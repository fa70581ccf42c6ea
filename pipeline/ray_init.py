"""What ``ray.init`` has no arguments for: each context manager changes it for a ``with`` block."""

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator

from ray._private import parameter, ray_constants


@contextlib.contextmanager
def accept_loopback() -> Iterator[None]:
    """Make ``ray.init`` keep a loopback address.

    It replaces the address by that of the network, so that other machines could join, unless
    clusters are disabled. RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 does that too, but only before ray is
    imported.
    """
    enabled = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled


@contextlib.contextmanager
def leave_agent_port() -> Iterator[None]:
    """Make ``ray.init`` take a free port for its agent, for which it has no argument.

    The fixed one belongs to a cluster that `ray start` starts on this machine: it takes submitted
    jobs there, and a cluster that does not get it takes none.
    """
    original = parameter.RayParams
    parameter.RayParams = functools.partial(original, dashboard_agent_listen_port=0)
    try:
        yield
    finally:
        parameter.RayParams = original


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Leave out Ray's warnings about its own future defaults, which no user of a job can act on."""
    authentication = logging.getLogger("ray._private.authentication.authentication_token_setup")
    level = authentication.level
    authentication.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        authentication.setLevel(level)
