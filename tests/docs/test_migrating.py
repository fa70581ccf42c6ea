"""docs/MIGRATING.md: its examples run on files of each library, its commands and keys exist."""

import pickle
import re
import shlex
from pathlib import Path

import pytest
import torch
from torchvision.models import detection

from model.config.settings import ConfigError
from model.config.settings_table import settings_table
from model.weights.__main__ import main as weights_main
from pipeline.config import RunConfig, load_config
from pipeline.config.__main__ import main as config_main
from tests.model.weights.detectron2 import zoo as detectron2
from tests.model.weights.mmdetection import zoo as mmdetection
from tests.pipeline.config.maskrcnn_benchmark.original_files import MASK_R50_FPN

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "MIGRATING.md").read_text()
KEYS = set(re.findall(r"^\| `([\w.]+)`", settings_table(RunConfig), re.MULTILINE))
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
EXAMPLES = [block for kind, block in BLOCKS if kind == "python"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files that the page names, with random weights in the format of their library."""
    monkeypatch.chdir(tmp_path)
    zoo = detectron2.make_weights(detectron2.ZOO["mask R50 FPN"])
    arrays = {name: tensor.numpy() for name, tensor in zoo.items()}
    Path("model_final.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "x"}))
    torch.save({"model": zoo}, "weights.pth")
    two = mmdetection.make_weights(mmdetection.Model(classes=2, masks=True))
    meta = {"dataset_meta": {"classes": ("scratch", "dent")}}
    torch.save({"state_dict": two, "meta": meta}, "epoch_12.pth")
    model = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(model.state_dict(), "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")


def test_the_examples_run(files):
    assert len(EXAMPLES) == 4
    for example in EXAMPLES:
        exec(compile(example, "MIGRATING.md", "exec"), {})


def test_the_commands_on_weights_run(files):
    commands = [line for line in COMMANDS if line.startswith("python -m model.weights")]
    assert len(commands) == 2
    for command in commands:
        assert weights_main(shlex.split(command)[3:]) == 0
    assert Path("weights/model.safetensors").is_file()


def test_the_config_of_maskrcnn_benchmark_is_converted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = next(line for line in COMMANDS if line.startswith("python -m pipeline.config"))
    arguments = shlex.split(command)[3:]
    Path(arguments[1]).write_text(MASK_R50_FPN)
    assert config_main(arguments) == 0
    load_config(tmp_path / arguments[-1])


def test_the_jobs_have_the_configs_and_keys_that_the_page_gives_them():
    jobs = [line for line in COMMANDS if line.startswith("python workflows/")]
    jobs += re.findall(r"`(python workflows/[^`]+)`", TEXT)
    assert len(jobs) >= 15
    for command in jobs:
        _, script, config, *overrides = shlex.split(command)
        assert (ROOT / script).is_file(), command
        # F.yaml stands for the user's file.
        load_config(ROOT / config.replace("F.yaml", "configs/my_data.yaml"), overrides)


def test_a_wrong_key_in_a_command_would_be_found():
    with pytest.raises(ConfigError):
        load_config(ROOT / "configs/my_data.yaml", ["train.schedule.epoch=24"])


def test_the_keys_of_the_right_column_exist():
    named = set()
    for row in re.findall(r"^\| (.*) \|$", TEXT, re.MULTILINE):
        here = row.rpartition(" | ")[2]
        named |= set(re.findall(r"`((?:train|data|model|evaluate|infer)\.[\w.]+)`", here))
    assert len(named) >= 30
    sections = {key.rpartition(".")[0] for key in KEYS}
    assert not named - KEYS - sections
