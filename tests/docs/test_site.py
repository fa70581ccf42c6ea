"""The documents are a site: every page is in its navigation, and every link has a target."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("mkdocs", reason='no mkdocs: pip install "maskrcnn-ray[docs]"')
pytest.importorskip("material", reason='no mkdocs-material: pip install "maskrcnn-ray[docs]"')


def build(config, site):
    # Not --quiet, with which mkdocs does not count warnings.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(config), "--site-dir", str(site)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_the_site_builds_without_a_warning(tmp_path):
    result = build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert result.returncode == 0, result.stderr
    pages = {path.parent.name for path in (tmp_path / "site").rglob("index.html")}
    assert {"MODEL_ZOO", "MIGRATING", "CHANGELOG", "configs", "canvas"} <= pages
    # Links between documents outside and inside of docs/ lead to pages.
    assert "CONFIG/" in (tmp_path / "site" / "index.html").read_text()
    zoo = (tmp_path / "site" / "MODEL_ZOO" / "index.html").read_text()
    assert "../MIGRATING/" in zoo
    # No page loads anything from another server.
    assert "fonts.googleapis" not in zoo and 'src="http' not in zoo


def test_a_link_without_a_target_is_found(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[a](missing.md)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: x\nstrict: true\n")
    result = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert result.returncode != 0
    assert "missing.md" in result.stderr
