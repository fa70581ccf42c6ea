"""A job says what MLflow did not take and how to send it, and that command sends it."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import load_text

from pipeline.config import RunConfig
from pipeline.track.mlflow_run import open_run
from pipeline.track.unsent_run import UnsentRun
from tests.conftest import ROOT
from workflows.command_line import _show_unsent, main


def record(config):
    """A job that does nothing but record a run."""
    with open_run(config, "train") as run:
        run.artifacts.text("the report", "evaluation/report.md")
    return run.run_id


def run_record(*arguments):
    return main(
        *("about", "example", record, lambda _: "recording", ("track",), list(arguments)),
        needs_cluster=lambda _: False,
    )


def test_the_last_lines_of_a_job_name_the_command_that_sends_the_rest(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    blocked = tmp_path / "blocked"
    blocked.write_text("a file in place of the folder of the artifacts")
    client = MlflowClient(uri)
    client.create_experiment("blocked", artifact_location=f"{blocked}/artifacts")
    arguments = [
        str(ROOT / "configs/quickstart.yaml"),
        *(f"output={tmp_path}/the output", f"track.uri={uri}", "track.experiment=blocked"),
    ]
    assert run_record(*arguments) == 0
    run_id, *rest = capsys.readouterr().out.splitlines()
    number = re.fullmatch(r"not sent    (\d+) artifacts of 1 MLflow run, .*", rest[0])[1]
    blocked.unlink()
    program, job, *given = shlex.split(rest[1])
    assert (program, given) == ("maskrcnn-ray", arguments)
    monkeypatch.setattr(sys, "argv", [job, *given])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "workflows" / f"{job}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert f"sent        {number} artifacts of 1 MLflow run" in capsys.readouterr().out
    location = client.get_run(run_id).info.artifact_uri
    assert load_text(f"{location}/evaluation/report.md") == "the report"
    assert not Path(tmp_path, "the output", "unsent", run_id).exists()
    assert run_record(*arguments) == 0
    assert "not sent" not in capsys.readouterr().out


def test_the_command_shows_no_password(tmp_path, capsys):
    config = RunConfig(output=str(tmp_path))
    UnsentRun(config.output, "f" * 32).keep_tags({"device": "cpu"})
    _show_unsent(config, ["c.yaml", "track.uri=postgresql://me:hush@host/db"])
    first, command = capsys.readouterr().out.splitlines()
    assert first.startswith("not sent    the tags of 1 MLflow run") and "***" in first
    assert command.endswith("send_unsent c.yaml 'track.uri=postgresql://me:***@host/db'")


def test_what_cannot_be_sent_is_still_kept_and_the_reason_is_shown(tmp_path, capsys, monkeypatch):
    output = str(tmp_path / "output")
    UnsentRun(output, "f" * 32).keep_text("note.txt", "a note")
    monkeypatch.setattr(
        sys,
        "argv",
        ["send_unsent", str(ROOT / "configs/quickstart.yaml"), f"output={output}"],
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "workflows/send_unsent.py"), run_name="__main__")
    assert ended.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "did not take 1 artifact of 1 MLflow run" in last and "still kept" in last
    assert UnsentRun(output, "f" * 32).artifacts() == ["note.txt"]
