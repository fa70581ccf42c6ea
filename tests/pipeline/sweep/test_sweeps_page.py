"""docs/SWEEPS.md shows a space that is valid, and every kind and choice there is."""

import re
import typing
from pathlib import Path

import pytest
import yaml

from pipeline.config import RunConfig, SearchDimension, SweepConfig
from pipeline.sweep.space_check import check_space

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "SWEEPS.md").read_text()


def test_the_space_on_the_page_is_valid():
    [block] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    check_space(RunConfig.model_validate(yaml.safe_load(block)))


@pytest.mark.parametrize(
    ("settings", "field"),
    [(SearchDimension, "kind"), (SweepConfig, "searcher"), (SweepConfig, "scheduler")],
)
def test_every_choice_is_described(settings, field):
    for choice in typing.get_args(settings.model_fields[field].annotation):
        assert f"`{choice}`" in PAGE
