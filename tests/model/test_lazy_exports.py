"""Lazy exports exist, are listed, and import torch and pyarrow only when they are used."""

import subprocess
import sys

import pytest

import model
from pipeline import storage


@pytest.mark.parametrize("package", [model, storage], ids=["model", "storage"])
def test_every_exported_name_exists_and_is_listed(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)


@pytest.mark.parametrize("package", [model, storage], ids=["model", "storage"])
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nme'"):
        _ = package.nme


def test_importing_the_packages_imports_neither_torch_nor_pyarrow():
    code = (
        "import sys, model, pipeline.storage\n"
        "assert not {'torch', 'pyarrow'} & sys.modules.keys()\n"
        "model.Detector, pipeline.storage.filesystem('/')\n"
        "assert {'torch', 'pyarrow'} <= sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
