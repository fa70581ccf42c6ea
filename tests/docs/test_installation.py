"""The README's sizes of the installation are those of this environment."""

import re
from pathlib import Path

import pytest

from tools.measure_installation import PROJECT, installed_bytes, required_distributions

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
ROWS = re.findall(
    r"^\| `pip install (?:'maskrcnn-ray\[(\w+)\]'|maskrcnn-ray)` \|.*\| ([\d.]+) GB \|$",
    README,
    re.M,
)


def test_the_readme_has_the_core_and_the_training():
    assert {"", "train", "all"} <= {extra for extra, _ in ROWS}


@pytest.mark.parametrize(("extra", "shown_gb"), ROWS)
def test_a_size_in_the_readme_is_measured(extra, shown_gb):
    extras = PROJECT["optional-dependencies"]
    requirements = [*PROJECT["dependencies"], *(extras[extra] if extra else ())]
    names = required_distributions(requirements, extras, PROJECT["name"])
    # Versions of packages, and torch's CUDA libraries, change from month to month.
    assert sum(map(installed_bytes, names)) / 1e9 == pytest.approx(float(shown_gb), rel=0.1)
