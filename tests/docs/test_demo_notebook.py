"""docs/demo.ipynb runs from its first cell to its last, and shows that the detector has learned."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "demo.ipynb"


def printed(cell):
    return "".join(each.get("text", "") for each in cell.get("outputs", ()))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after its execution, in another folder than the repository."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}})
        client.execute()
    return notebook.cells


def test_the_losses_fall(executed):
    trainings = [
        losses
        for cell in executed
        if (
            losses := [
                float(loss) for loss in re.findall(r"step +\d+ +loss ([\d.]+)", printed(cell))
            ]
        )
    ]
    assert len(trainings) == 2
    for losses in trainings:
        assert losses[-1] < losses[0] / 2


def test_the_detector_finds_objects_and_the_exported_file_the_same(executed):
    [found] = [printed(cell) for cell in executed if 'print("boxes' in cell.source]
    assert re.search(r"classes \['(circle|star|cross)'", found)
    [compared] = [printed(cell) for cell in executed if 'onnxruntime"' in cell.source]
    first, second = (
        [float(number) for number in re.findall(r"\d+\.\d+", line)]
        for line in compared.splitlines()
    )
    assert first == pytest.approx(second, abs=0.2)
    assert len(first) >= 4


def test_images_are_shown(executed):
    shown = [
        each
        for cell in executed
        for each in cell.get("outputs", ())
        if "image/png" in each.get("data", {})
    ]
    assert len(shown) == 3


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 8
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_links_of_the_notebook_have_targets():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", cell.source):
                assert (NOTEBOOK.parent / target).exists(), target
