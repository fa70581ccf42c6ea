"""The README's tables are those of the saved benchmark results."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_shows_the_saved_results():
    tool = runpy.run_path(str(ROOT / "tools" / "write_benchmark_tables.py"))
    assert tool["main"](["--check"]) == 0, "run python tools/write_benchmark_tables.py"
