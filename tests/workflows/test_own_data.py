"""The README's steps from annotations to drawn predictions, in an empty folder."""

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import mlflow
import pytest
import torch
from torchvision.models import resnet18

from pipeline import storage
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from tests.annotated_datasets import voc_object, write_voc
from tests.conftest import ROOT
from tests.mlflow_server import MlflowServer
from tests.postgresql import postgres  # noqa: F401

pytestmark = pytest.mark.ray

SECTION = re.search(r"^## Your own data\n(.*?)^## ", (ROOT / "README.md").read_text(), re.S | re.M)[
    1
]
RECIPE, COMMANDS = re.findall(r"^```\w*\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE)[:2]
# The README's training takes hours without a GPU; this one takes three small steps.
SMALL = [
    *("train.weights=resnet18.pth", "model.backbone.depth=18", "model.fpn.channels=32"),
    *("model.input.short_side=64", "model.input.long_side=64", "data.train_short_sides=[64]"),
    *("model.box.hidden=64", "model.box.score_threshold=0.0", "model.box.detections_per_image=5"),
    *("train.global_batch=2", "train.schedule.epochs=1", "train.schedule.milestones_epochs=[]"),
    *("train.validate_every_epochs=1", "train.workers=1"),
]


@pytest.fixture
def folder(ray_cluster, tmp_path, monkeypatch):
    """An empty folder with the weights of a backbone, where commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    torch.save(resnet18().state_dict(), "resnet18.pth")
    return tmp_path


def run(capsys, command, *settings):
    """Run a line of the README; return what it printed."""
    # python workflows/JOB.py, or maskrcnn-ray JOB
    _, program, *arguments = shlex.split(command, comments=True)
    script = ROOT / "workflows" / f"{Path(program).stem}.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script), *arguments, *settings])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return captured.out


def write_coco(folder):
    """Draw a dataset of the README's layout: three classes, one folder of images."""
    names = iter(range(100))
    for split, images in (("train", 6), ("val", 2)):
        annotations, files = draw_shapes_dataset(Path(f"drawn-{split}"), images, 64, 3, images)
        document = json.loads(annotations.read_text())
        document["categories"] = document["categories"][:3]
        kept = [category["id"] for category in document["categories"]]
        for annotation in document["annotations"]:
            annotation["category_id"] = kept[annotation["category_id"] % 3]
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for image in document["images"]:
            name = f"photo {next(names)}.jpg"
            shutil.copy(files / image["file_name"], folder / "images" / name)
            image["file_name"] = name
        (folder / f"{split}.json").write_text(json.dumps(document))


def run_steps(capsys, commands):
    """Run the README's commands, small; return what each printed, by job."""
    printed = {}
    for command in commands.splitlines():
        job = Path(shlex.split(command)[1]).stem
        settings = ["--min-score", "0"] if job == "predict" else SMALL
        printed[job] = run(capsys, command, *settings)
    return printed


def check_drawn(printed, folder, images):
    assert "objects     0" not in printed
    drawn = [path.name for path in Path(folder).glob("*.jpg")]
    assert sorted(drawn) == sorted(path.name for path in Path(images).glob("*.jpg"))


def test_the_steps_for_coco_annotations(folder, capsys):
    Path("my_parts.yaml").write_text(RECIPE)
    write_coco(folder / "parts")
    printed = run_steps(capsys, COMMANDS)
    assert list(printed) == ["prepare_shards", "show_data", "train", "evaluate", "predict"]
    assert re.search(r"segm/AP +\S+\n", printed["evaluate"])
    assert Path("runs/my_parts/evaluation/report.md").is_file()
    assert Path("runs/my_parts/data/samples.png").is_file()
    check_drawn(printed["predict"], "drawn", "parts/images")
    run(capsys, "maskrcnn-ray register my_parts.yaml", *SMALL)


def test_the_steps_for_voc_annotations(folder, capsys):
    boxes = [voc_object("nut", 5, 5, 30, 30), voc_object("bolt", 31, 3, 55, 35)]
    images = {f"{number:06}": boxes[: 1 + number % 2] for number in range(6)}
    write_voc(folder / "VOC2007", images, "train")
    write_voc(folder / "VOC2007", images, "val")
    part = "[{root: VOC2007, set: %s}]"
    Path("my_voc.yaml").write_text(
        "base: configs/my_data.yaml\noutput: runs/my_voc\nmodel: {num_classes: 2, mask: null}\n"
        f"data: {{source: voc, train: {part % 'train'}, val: {part % 'val'}}}\n"
    )
    for job in ("prepare_shards", "train", "evaluate"):
        output = run(capsys, f"python workflows/{job}.py my_voc.yaml", *SMALL)
    assert re.search(r"voc/AP50 +\S+\n", output)
    command = "maskrcnn-ray predict runs/my_voc VOC2007/JPEGImages --min-score 0 --output drawn"
    printed = run(capsys, command, "--annotations", "coco")
    check_drawn(printed, "drawn", "VOC2007/JPEGImages")
    assert json.loads(Path("drawn/annotations.json").read_text())["annotations"]


@pytest.fixture
def server(postgres, s3, tmp_path):  # noqa: F811
    """An MLflow server that keeps its records in PostgreSQL and its files in S3."""
    with MlflowServer(tmp_path, postgres, s3("mlflow")) as server:
        yield server


@pytest.mark.s3
def test_the_steps_with_a_bucket_and_a_tracking_server(folder, server, s3, capsys):
    write_coco(folder / "parts")
    bucket = s3("parts")
    storage.upload_folder(folder / "parts", f"{bucket}/parts")
    recipe, commands = (
        text.replace(" parts/", f" {bucket}/parts/").replace(" runs/my_", f" {bucket}/runs/my_")
        for text in (RECIPE, COMMANDS)
    )
    Path("my_parts.yaml").write_text(f"{recipe}track: {{uri: {server.uri}}}\n")
    jobs = [each for each in commands.splitlines() if " predict " not in each]
    run_steps(capsys, "\n".join(jobs))
    registered = run(capsys, "maskrcnn-ray register my_parts.yaml", *SMALL)
    assert "champion   1" in registered
    run(
        capsys,
        "maskrcnn-ray infer_batch my_parts.yaml",
        *SMALL,
        f"infer.inputs={bucket}/parts/images",
    )
    summary = storage.read_json(f"{bucket}/runs/my_parts/predictions/summary.json")
    assert (summary["images"], summary["failed"]) == (8, 0)
    runs = mlflow.MlflowClient(server.uri)
    [version] = runs.search_model_versions("name='my_data'")
    assert runs.get_run(version.run_id).info.artifact_uri.startswith("mlflow-artifacts:")
    assert not (folder / "runs").exists() and not (folder / "mlruns").exists()
