"""Writes docs/CONFIG.md: every configuration key with its type, default and meaning."""

from pathlib import Path

from model.config.settings_table import settings_table
from pipeline.config import RunConfig

PAGE = Path(__file__).resolve().parent.parent / "docs" / "CONFIG.md"

HEAD = """# Every configuration key

A configuration is a YAML file (`configs/`), with `base: other.yaml` for the file it builds on, and
`key=value` on the command line. Made by `make docs` from the settings' own descriptions.

"""


def config_reference() -> str:
    """The page's text."""
    return HEAD + settings_table(RunConfig) + "\n"


if __name__ == "__main__":
    PAGE.write_text(config_reference())
