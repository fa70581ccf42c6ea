"""An installation without extras predicts, and says which extra everything else needs."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from model import ModelConfig, build_detector, save_detector
from pipeline import storage
from pipeline.extras import EXTRAS
from tests.fresh_environment import (
    ROOT,
    build_wheel,
    environment_variables,
    make_limited_environment,
)
from workflows.__main__ import job_names

CARD_PACKAGES = {"torchvision", "ray", "mlflow", "pycocotools", "pyarrow", "boto3"}
EXTRA_OF = {"serve": "serve", "sweep": "sweep"}  # all other jobs: train
JOBS = sorted(set(job_names()) - {"compare", "predict"})
MODULES = {"PIL", "numpy", "pydantic", "rich", "safetensors", "simplejpeg", "torch", "yaml"}

FEW_LINES = """
import sys
from model import load_detector

detector = load_detector(sys.argv[1], score_threshold=0.0)
detections = detector.predict([sys.argv[2]])
first = detections[0].above(0.0)
assert len(first) > 0 and first.boxes.shape == (len(first), 4)
assert first.bitmaps().shape[0] == len(first.rle()) == len(first)
detector.draw(sys.argv[2], first, min_score=0.0).save(sys.argv[3])
import model, ops_cuda
print(ops_cuda.backend(), model.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """The folder of an environment with the wheel and what it requires, without extras."""
    folder = tmp_path_factory.mktemp("core")
    _, names = make_limited_environment(folder / "venv", wheel)
    assert not names & {*CARD_PACKAGES, "optuna", "pandas", "matplotlib", "onnx", "av"}
    return folder / "venv"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A small detector with random weights."""
    config = ModelConfig.model_validate(
        {
            "num_classes": 2,
            "input": {"short_side": 64, "long_side": 64},
            "backbone": {"depth": 18, "width": 8},
            "fpn": {"channels": 16},
            "box": {"hidden": 16, "score_threshold": 0.0},
            "mask": {"channels": 8},
        }
    )
    folder = tmp_path_factory.mktemp("weights") / "model"
    save_detector(build_detector(config), folder)
    return folder


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png"):
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(folder / name)
    return folder


def run(core, *command, cwd, **variables):
    """Run a command of the environment; the first part is its name in ``bin``."""
    variables = environment_variables(**variables)
    variables.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        [str(core / "bin" / command[0]), *map(str, command[1:])],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=variables,
    )


def check_one_line(ended, *parts):
    """Check that a command ended with status 2 and one line, without a traceback."""
    lines = [line for line in ended.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert ended.returncode == 2, ended.stderr
    assert len(lines) == 1, ended.stderr
    for part in parts:
        assert part in lines[0]


def test_predict_draws_a_folder_of_images(core, weights, images, tmp_path):
    ended = run(
        core,
        *("maskrcnn-ray", "predict", weights, images, "--output", "drawn"),
        *("--min-score", "0", "--json", "--crops"),
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"images +2\n", ended.stdout)
    for name in ("a.jpg", "b.png"):
        with Image.open(tmp_path / "drawn" / name) as drawn, Image.open(images / name) as original:
            assert drawn.size != (0, 0)
            assert np.asarray(drawn.resize(original.size)).std() > 0
    assert (tmp_path / "drawn" / "coco_results.json").stat().st_size > 2


def test_the_few_lines_of_the_readme_run(core, weights, images, tmp_path):
    drawn = tmp_path / "drawn.png"
    ended = run(core, "python", "-c", FEW_LINES, weights, images / "a.jpg", drawn, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert str(core) in ended.stdout
    with Image.open(drawn) as image:
        image.load()


@pytest.mark.parametrize("name", JOBS)
def test_a_job_names_the_extra_that_it_needs(core, name, tmp_path):
    ended = run(core, "maskrcnn-ray", name, "configs/quickstart.yaml", cwd=tmp_path)
    extra = EXTRA_OF.get(name, "train")
    check_one_line(ended, f"maskrcnn-ray {name}: ", f"pip install 'maskrcnn-ray[{extra}]'", "ray")
    assert not list(tmp_path.iterdir())
    assert run(core, "maskrcnn-ray", name, "--help", cwd=tmp_path).returncode == 0


def test_a_script_of_a_clone_names_the_extra_that_it_needs(core, tmp_path):
    script = ROOT / "workflows" / "train.py"
    ended = run(core, "python", script, "configs/quickstart.yaml", cwd=tmp_path)
    check_one_line(ended, "train.py: ", "pip install 'maskrcnn-ray[train]'")


def test_a_chain_with_a_sweep_names_the_extra_of_sweeps(core, tmp_path):
    arguments = ["configs/quickstart.yaml", "chain.sweep=true"]
    ended = run(core, "maskrcnn-ray", "end_to_end", *arguments, cwd=tmp_path)
    check_one_line(ended, "pip install 'maskrcnn-ray[sweep]'")


def test_compare_names_the_extra_that_it_needs(core, tmp_path):
    ended = run(core, "maskrcnn-ray", "compare", "first", "second", cwd=tmp_path)
    check_one_line(ended, "pip install 'maskrcnn-ray[train]'")


@pytest.mark.parametrize(
    ("inputs", "variables", "extra"),
    [
        (["MODEL", "s3://bucket/photos"], {}, "s3"),
        (["s3://bucket/model", "PHOTOS"], {}, "s3"),
        (["MODEL", "PHOTOS", "--output", "s3://bucket/drawn"], {}, "s3"),
        (["MODEL", "street.mp4"], {}, "video"),
        (["MODEL", "--webcam", "0"], {}, "video"),
        (["models:/parts@champion", "PHOTOS"], {"MLFLOW_TRACKING_URI": "http://host"}, "train"),
    ],
)
def test_predict_names_the_extra_of_an_input(
    core, weights, images, inputs, variables, extra, tmp_path
):
    (tmp_path / "street.mp4").write_bytes(b"a video")
    known = {"MODEL": str(weights), "PHOTOS": str(images)}
    arguments = [known.get(each, each) for each in inputs]
    kept = {**environment_variables(), **variables}
    ended = subprocess.run(
        [str(core / "bin" / "maskrcnn-ray"), "predict", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=kept,
    )
    check_one_line(ended, "maskrcnn-ray predict: ", f"pip install 'maskrcnn-ray[{extra}]'")


@pytest.mark.s3
def test_predict_in_a_bucket_needs_the_extra_s3_alone(wheel, weights, images, s3, tmp_path):
    folder = tmp_path / "venv"
    _, names = make_limited_environment(folder, wheel, ["s3"])
    assert {"pyarrow", "boto3"} <= names
    assert not names & {"ray", "mlflow", "torchvision", "pandas"}
    model, photos, drawn = s3("model"), s3("photos"), s3("drawn")
    storage.upload_folder(weights, model)
    storage.upload_folder(images, photos)
    arguments = [model, photos, "--output", drawn, "--min-score", "0"]
    ended = run(folder, "maskrcnn-ray", "predict", *arguments, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert {url.rpartition("/")[2] for url in storage.list_files(drawn)} == {"a.jpg", "b.png"}


def test_export_to_onnx_names_its_extra(core, weights, tmp_path):
    command = ["python", "-m", "model.export", weights, "--to", "detector.onnx"]
    check_one_line(run(core, *command, cwd=tmp_path), "onnx", "pip install 'maskrcnn-ray[export]'")


def test_the_other_commands_run(core, weights, tmp_path):
    inspected = run(core, "python", "-m", "model.weights", "inspect", weights, cwd=tmp_path)
    assert inspected.returncode == 0, inspected.stderr
    old = tmp_path / "old.yaml"
    old.write_text("MODEL:\n  META_ARCHITECTURE: GeneralizedRCNN\n  MASK_ON: true\n")
    imported = run(core, "python", "-m", "pipeline.config", "import", old, cwd=tmp_path)
    assert imported.returncode == 0, imported.stderr
    listed = run(core, "maskrcnn-ray", "--help", cwd=tmp_path)
    assert listed.returncode == 0
    assert "predict" in listed.stdout


def test_the_table_of_extras_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for extra, modules in EXTRAS.items():
        assert set(modules) == _modules(extras, extra), extra
    assert _modules({"core": project["dependencies"]}, "core") == MODULES


def test_all_and_dev_install_everything_and_train_the_packages_of_the_card():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"]
    for extra in set(extras) - {"all", "bench", "dev", "docs"}:
        assert _requirements(extras, extra) <= _requirements(extras, "all"), extra
    for extra in extras:
        assert _requirements(extras, extra) <= _requirements(extras, "dev"), extra
    assert _requirements(extras, "train") >= CARD_PACKAGES
    [ray] = [each for each in map(Requirement, extras["train"]) if each.name == "ray"]
    assert {"train", "tune"} <= ray.extras


def _requirements(extras, extra):
    """Return the names of the distributions of an extra, with those of the extras in it."""
    names = set()
    for requirement in map(Requirement, extras[extra]):
        if requirement.name == "maskrcnn-ray":
            names |= set().union(*(_requirements(extras, each) for each in requirement.extras))
        else:
            names.add(canonicalize_name(requirement.name))
    return names


def _modules(extras, extra):
    """Return the names under which the distributions of an extra are imported."""
    modules_of = {}
    for module, names in importlib.metadata.packages_distributions().items():
        for name in names:
            modules_of.setdefault(canonicalize_name(name), set()).add(module)
    public = set()
    for name in _requirements(extras, extra):
        files = {str(file) for file in importlib.metadata.files(name) or ()}
        if f"{(path := name.replace('-', '/'))}/__init__.py" in files and "/" in path:
            public.add(path.replace("/", "."))  # in a namespace, as google.cloud.storage
            continue
        found = {each for each in modules_of[name] if not each.startswith("_")}
        own = {each for each in found if each.lower() in (name, name.replace("-", "_"))}
        public |= own or (found & ({*sys.modules, "psycopg2", "PIL", "yaml"})) or found
    return public
