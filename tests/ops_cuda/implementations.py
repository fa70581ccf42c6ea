"""Tests of an operator and of its reference implementation at once."""

from types import SimpleNamespace

import pytest

import ops_cuda


def both_implementations(*references):
    """Parametrize `ops`: `ops_cuda`, and these references under the names of their operators."""
    by_name = {each.__name__.removesuffix("_reference"): each for each in references}
    return pytest.mark.parametrize(
        "ops", [ops_cuda, SimpleNamespace(**by_name)], ids=["public", "reference"]
    )
