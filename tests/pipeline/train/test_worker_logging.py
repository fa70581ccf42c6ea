"""Rank 0 prints the log of a training; other ranks print warnings about themselves."""

import logging

import pytest

from pipeline.train.worker_logging import configure_logging


@pytest.fixture
def restored_loggers():
    package, weights = logging.getLogger("pipeline"), logging.getLogger("model.weights")
    levels, handlers, propagates = (
        (package.level, weights.level),
        package.handlers[:],
        package.propagate,
    )
    yield
    package.setLevel(levels[0])
    weights.setLevel(levels[1])
    package.handlers[:], package.propagate = handlers, propagates


@pytest.mark.usefixtures("restored_loggers")
def test_only_rank_0_prints_warnings_about_weights():
    for rank, warns in ((0, True), (1, False)):
        configure_logging(rank)
        assert logging.getLogger("model.weights.load").isEnabledFor(logging.WARNING) == warns
        assert logging.getLogger("pipeline.train").isEnabledFor(logging.WARNING)
        assert logging.getLogger("pipeline.train").isEnabledFor(logging.INFO) == warns
