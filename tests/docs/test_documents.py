"""The documents agree with the code."""

import re
import runpy
import shlex
from pathlib import Path

from pipeline.config import load_config
from pipeline.train.start_checks import check_frozen_parts

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text().replace("\\\n", " ")


def test_the_published_recipe_has_the_published_schedule():
    config = load_config(ROOT / "configs" / "mask_rcnn_r50_fpn_1x.yaml")
    schedule = config.train.schedule
    assert (schedule.steps, schedule.milestones, schedule.gamma) == (90_000, (60_000, 80_000), 0.1)
    assert (config.train.optimizer.lr, config.train.global_batch) == (0.02, 16)


def test_the_key_reference_is_up_to_date():
    page = runpy.run_path(str(ROOT / "tools" / "write_config_reference.py"))
    assert page["PAGE"].read_text() == page["config_reference"](), "run make docs"


def test_every_job_command_in_the_readme_names_existing_files_and_keys():
    blocks = "\n".join(re.findall(r"```[a-z]*\n(.*?)```", README, re.DOTALL))
    # Commands after a "$ " are examples of errors.
    commands = re.findall(r"(?<!\$ )python (workflows/.*)$", blocks, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        script, config, *overrides = shlex.split(command, comments=True)
        assert (ROOT / script).exists(), command
        if config.startswith("configs/"):
            settings = load_config(ROOT / config, overrides)
            if script == "workflows/train.py":
                check_frozen_parts(settings)


def test_every_link_in_the_documents_has_a_target():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "configs/README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
