"""The requests of docs/SERVE.md work as they are written."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from pipeline.config import load_config
from tests.conftest import ROOT

pytestmark = pytest.mark.ray

PAGE = (ROOT / "docs" / "SERVE.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def folder(tmp_path, encoded):
    (tmp_path / "photo.jpg").write_bytes(encoded(image_format="JPEG"))
    return tmp_path


def test_the_jobs_that_start_a_server_have_valid_settings():
    text = PAGE + (ROOT / "README.md").read_text()
    jobs = re.findall(r"maskrcnn-ray serve (configs/\S+\.yaml)", text)
    assert len(jobs) >= 2
    for config in jobs:
        assert load_config(ROOT / config).serve.host == "127.0.0.1"


def test_the_requests_of_the_page(url, folder):
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    commands = [line for line in PAGE.splitlines() if line.startswith("curl ")]
    outputs = [
        subprocess.run(
            command.replace(ADDRESS, url).replace("curl ", "curl --silent --fail ", 1),
            shell=True,
            cwd=folder,
            capture_output=True,
            check=True,
        ).stdout
        for command in commands
    ]
    keys = re.findall(
        r"`(\w+)`", "".join(re.findall(r"^\| (`model`.*|`[a-z_, `]+`) \|", PAGE, re.M))
    )
    everything, selected = (json.loads(output) for output in outputs[:2])
    assert set(everything) == set(selected) <= set(keys)
    assert len(outputs) == 3
    assert Image.open(folder / "drawn.png").format == "PNG"


def test_the_script_of_the_page(url, folder):
    [script] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    printed = subprocess.run(
        [sys.executable, "-c", script.replace(ADDRESS, url)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert re.fullmatch(r"(\w+ \d+ pixels\n)+", printed)
