"""A command of one of our jobs, checked without running it."""

import shlex

from pipeline.config import load_config
from tests.deploy.strict_yaml import ROOT

# Where the image has the repository (deploy/Dockerfile).
IN_THE_IMAGE = "/home/ray/maskrcnn-ray/"


def check_job_command(command):
    """Fail unless script and config exist and all settings are valid."""
    python, script, config, *settings = shlex.split(command.replace(IN_THE_IMAGE, ""))
    assert python == "python"
    assert (ROOT / script).is_file(), command
    load_config(ROOT / config, settings)
