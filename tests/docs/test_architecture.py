"""docs/ARCHITECTURE.md names files and functions that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
# `path/file.py: name, name` or `path/file.py: Class.method`, as the page writes them.
REFERENCES = re.findall(r"`([\w./]+\.py)(?:: ([\w., ]+))?`", PAGE)
FOLDERS = re.findall(r"`([\w./]+/)`", PAGE)


def names_defined_in(path):
    """Return the top-level names of a file, and its methods as Class.method."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (item for item in node.body if isinstance(item, ast.FunctionDef))
            names.update(f"{node.name}.{method.name}" for method in methods)
        if isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def test_the_page_names_many_files():
    assert len(REFERENCES) >= 30


@pytest.mark.parametrize(("file", "names"), REFERENCES)
def test_files_and_names_on_the_page_exist(file, names):
    path = ROOT / file
    assert path.is_file(), f"docs/ARCHITECTURE.md names {file}"
    missing = {name.strip() for name in names.split(",") if name.strip()} - names_defined_in(path)
    assert not missing, f"{file} defines no {missing}"


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if "*" not in folder])
def test_folders_on_the_page_exist(folder):
    written_by_runs = {"shards/", "train/", "evaluation/", "predictions/", "sweep/", "mlartifacts/"}
    assert folder in written_by_runs or (ROOT / folder).is_dir(), folder
