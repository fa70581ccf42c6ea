"""docs/AUGMENTATION.md shows every example and names the settings with their defaults."""

import re
import runpy
from pathlib import Path

from pipeline.config import DataConfig

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "AUGMENTATION.md").read_text()


def test_the_page_shows_every_drawn_example():
    tool = runpy.run_path(str(ROOT / "tools" / "draw_augmentation_examples.py"))
    shown = re.findall(r"!\[[^]]+\]\(augmentation/(\w+)\.jpg\)", PAGE)
    drawn = sorted(path.stem for path in (ROOT / "docs" / "augmentation").iterdir())
    assert sorted(shown) == sorted(tool["EXAMPLES"]) == drawn
    for settings in tool["EXAMPLES"].values():
        DataConfig.model_validate(settings)


def test_the_settings_of_the_page_have_the_defaults_that_it_says():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    probabilities = {name for name in DataConfig.model_fields if name.endswith("_probability")}
    assert probabilities <= set(rows)
    data = DataConfig()
    for name, default in rows.items():
        value = getattr(data, name)
        if name in probabilities:
            assert value == float(default)
        elif default == "off":
            assert value is None or not value.changes_colors
