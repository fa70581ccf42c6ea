"""The command ``python -m pipeline.config import``."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import RunConfig, load_config
from pipeline.config.__main__ import main
from tests.pipeline.config.maskrcnn_benchmark import original_files

ROOT = Path(__file__).resolve().parents[3]


def test_the_command_writes_a_file_that_loads_and_reports_skipped_keys(tmp_path, capsys):
    (tmp_path / "old.yaml").write_text(original_files.MASK_R50_FPN_GN)
    new = tmp_path / "new.yaml"
    assert main(["import", str(tmp_path / "old.yaml"), "--to", str(new)]) == 0
    assert isinstance(load_config(new), RunConfig)
    assert "TEST.IMS_PER_BATCH = 8" in capsys.readouterr().err


def test_the_command_fails_on_errors_and_never_overwrites_the_original(tmp_path, capsys):
    old = tmp_path / "old.yaml"
    assert main(["import", str(old)]) == 1
    assert "cannot read" in capsys.readouterr().err
    old.write_text("{}")
    assert main(["import", str(old), "--to", str(old)]) == 1
    assert old.read_text() == "{}"


@pytest.mark.parametrize("recipe", ["quickstart", "mask_rcnn_r50_fpn_1x"])
def test_one_of_our_own_files_is_not_imported(recipe, capsys):
    assert main(["import", str(ROOT / "configs" / f"{recipe}.yaml")]) == 1
    error = capsys.readouterr().err
    assert "is not a file of maskrcnn-benchmark" in error
    assert "give it to the jobs as it is" in error
    assert "unknown key" not in error


def test_the_package_runs_as_a_command(tmp_path):
    (tmp_path / "old.yaml").write_text(original_files.FASTER_R50_FPN)
    command = [sys.executable, "-m", "pipeline.config", "import", str(tmp_path / "old.yaml")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    (tmp_path / "new.yaml").write_text(run.stdout)
    assert load_config(tmp_path / "new.yaml").model.mask is None
