"""A version whose backbone is a user's: its code travels, and nothing else does."""

import importlib.metadata
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from model import build_detector, save_detector
from model.config import BackboneConfig
from model.config.settings import ConfigError
from pipeline.track import backbone_code
from pipeline.track.model_registry import register_model

LAYERS = """
from torch import nn

def stage(a, b, stride):
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.ReLU())
"""
NETS = """
from torch import nn
from model.backbones import custom_backbone
from {layers} import stage

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(
            [stage(3, 4, 4), stage(4, 8, 2), stage(8, 8, 2), stage(8, 8, 2)]
        )

    def forward(self, x):
        return [x := stage(x) for stage in self.stages]

@custom_backbone
def make():
    return Net()
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    """A module, a package and other files in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("sibling_layers.py").write_text(LAYERS)
    Path("sibling_nets.py").write_text(NETS.format(layers="sibling_layers"))
    package = Path("team_nets")
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "layers.py").write_text(LAYERS)
    (package / "nets.py").write_text(NETS.format(layers="team_nets.layers"))
    (package / "weights.pth").write_bytes(b"a pickle")
    Path(".env").write_text("SECRET=1")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("sibling_", "team_nets"))]:
        del sys.modules[name]


def test_nothing_of_the_standard_library_is_taken_for_the_users():
    assert Path(importlib.metadata.__file__).is_relative_to("/")
    files = backbone_code._imported_files(Path("/"))
    libraries = {Path(module.__file__).resolve() for module in (importlib.metadata, pytest)}
    assert not libraries & files
    assert not any("ops_cuda" in path.parts for path in files)


@pytest.mark.parametrize(
    ("function", "files"),
    [
        ("sibling_nets:make", {"sibling_nets.py", "sibling_layers.py"}),
        (
            "team_nets.nets:make",
            {"team_nets/__init__.py", "team_nets/layers.py", "team_nets/nets.py"},
        ),
    ],
)
def test_the_files_that_the_function_imports_are_copied(own_code, function, files):
    backbone_code.copy_backbone_code(BackboneConfig(function=function), own_code / "code")
    copied = {
        path.relative_to(own_code / "code").as_posix()
        for path in (own_code / "code").rglob("*")
        if path.is_file()
    }
    assert copied == files


def test_a_registered_version_loads_without_the_users_folder(
    own_code, run_config, run, tiny_model_config
):
    backbone = BackboneConfig(function="sibling_nets:make", norm="batch_norm")
    config = tiny_model_config.model_copy(update={"backbone": backbone})
    save_detector(build_detector(config), own_code / "saved")
    metrics = {"segm/AP": 0.3}
    version = register_model(run_config, str(own_code / "saved"), metrics, run.run_id, "d" * 64)
    client = MlflowClient(run.uri, registry_uri=run.uri)
    location = client.get_model_version_download_uri(version.name, version.version)
    model = Path(location.removeprefix("file://"))
    assert (model / "code/sibling_layers.py").is_file()
    (model / "code/sibling_layers.py").unlink()
    with pytest.raises(ConfigError, match="No module named 'sibling_layers'"):
        backbone_code.check_in_new_process(model)


def test_only_distributions_of_an_index_are_requirements(own_code, monkeypatch):
    class Installed:
        origin = None

        def read_text(self, name):
            assert name == "direct_url.json"
            return self.origin

    monkeypatch.setattr(backbone_code, "packages_distributions", lambda: {"team_nets": ["team"]})
    monkeypatch.setattr(backbone_code, "distribution", lambda name: Installed())
    config = BackboneConfig(function="team_nets.nets:make")
    assert backbone_code.backbone_packages(config) == ["team"]
    monkeypatch.setattr(Installed, "origin", '{"url": "file:///home/me/team"}')
    assert backbone_code.backbone_packages(config) == []
    assert backbone_code.backbone_packages(BackboneConfig(timm="convnext_tiny")) == ["timm"]
    assert importlib.metadata.version("timm")
