"""Modules of the user are found without importing anything."""

import sys
from pathlib import Path

import pytest

from model.config.user_functions import find_source


@pytest.mark.parametrize("init", [(), ("outer_nets",), ("outer_nets", "outer_nets/inner_nets")])
def test_the_file_of_a_module_is_found_also_in_packages_without_init(tmp_path, monkeypatch, init):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = Path("outer_nets/inner_nets/nets.py")
    file.parent.mkdir(parents=True)
    file.touch()
    for folder in init:
        (Path(folder) / "__init__.py").touch()
    assert find_source("outer_nets.inner_nets.nets") == tmp_path / file
    assert find_source("outer_nets.inner_nets.missing") is None
    assert find_source("outer_nets.missing.nets") is None
    assert not [name for name in sys.modules if name.startswith("outer_nets")]
