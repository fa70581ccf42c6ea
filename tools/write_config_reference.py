"""Write docs/CONFIG.md: every configuration key with its type, default and description."""

from pathlib import Path

from model.config.settings_table import settings_table
from pipeline.config import RunConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "CONFIG.md"

HEAD = """# Configuration reference

A configuration is a YAML file (`configs/`), with `base: other.yaml` for the file that it builds on,
and `key=value` overrides on the command line. `make docs` generates this page from the settings.

"""


def config_reference() -> str:
    """Return the text of the page."""
    return HEAD + settings_table(RunConfig) + "\n"


if __name__ == "__main__":
    PAGE.write_text(config_reference())
