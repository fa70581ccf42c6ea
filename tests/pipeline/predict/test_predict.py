"""The job on images: what is written, what is refused, and the exit status."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_codec

from model import load_detector
from model.images.decode import decode_image
from pipeline.predict import image_files

ROOT = Path(__file__).resolve().parents[3]


def test_every_kind_of_image_is_drawn_on(predict_job, photo, tmp_path):
    photo("in/rgb.jpg")
    for mode in ("L", "RGBA", "1", "P", "CMYK"):
        photo(f"in/{mode}.{'jpg' if mode == 'CMYK' else 'png'}", mode=mode)
    deep = np.arange(60 * 80, dtype=np.uint16).reshape(60, 80) * 13
    Image.fromarray(deep).save(tmp_path / "in" / "deep.png")
    photo("in/naïve photo 日本.bmp", size=(401, 333))
    status, output, _ = predict_job("in", "--output", "out")
    assert status == 0
    assert "images      8" in output
    drawn = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert len(drawn) == 8 and "naïve photo 日本.png" in drawn
    for path in drawn.values():
        with Image.open(path) as image:
            assert image.mode == "RGB"
            assert image.size == ((401, 333) if "photo" in path.name else (480, 360))
            assert image.format == ("JPEG" if path.suffix == ".jpg" else "PNG")


def test_records_are_those_of_the_detector_with_names(
    predict_job, photo, tiny_checkpoint, tmp_path
):
    paths = [photo(f"in/{number}.png", seed=number, size=(90, 60 + number)) for number in range(3)]
    assert predict_job("in", "--output", "out", "--json")[0] == 0
    images = json.loads((tmp_path / "out" / "coco_images.json").read_text())
    results = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert [image["file_name"] for image in images] == ["0.png", "1.png", "2.png"]
    detector = load_detector(tiny_checkpoint, score_threshold=0.0)
    for image, path in zip(images, paths, strict=True):
        detections = detector.predict(decode_image(path.read_bytes()))
        own = [result for result in results if result["image_id"] == image["id"]]
        assert (image["height"], image["width"]) == detections.image_size
        assert [result["score"] for result in own] == pytest.approx(detections.scores.tolist())
        assert {result["file_name"] for result in own} == {path.name}
        masks = np.stack([rle_codec.decode(result["segmentation"]) for result in own])
        assert (masks != detections.bitmaps().numpy()).mean() < 1e-3
        for result, label in zip(own, detections.labels.tolist(), strict=True):
            category = detector.categories[label - 1]
            assert (result["category_id"], result["category_name"]) == category[:2]


def test_only_the_wanted_classes_are_kept(predict_job, photo, tiny_checkpoint, tmp_path):
    photo("in/a.png")
    names = load_detector(tiny_checkpoint).class_names
    assert predict_job("in", "--output", "all", "--json")[0] == 0
    found = json.loads((tmp_path / "all" / "coco_results.json").read_text())
    wanted = found[0]["category_name"]
    predict_job("in", "--output", "one", "--json", "--classes", wanted.upper())
    kept = json.loads((tmp_path / "one" / "coco_results.json").read_text())
    assert kept == [result for result in found if result["category_name"] == wanted]
    status, _, errors = predict_job("in", "--output", "none", "--classes", names[0] + "x")
    assert status == 1
    assert errors.splitlines()[-1].endswith(
        f"has no class '{names[0]}x'; did you mean '{names[0]}'?"
    )


def test_crops_are_the_objects_without_their_background(predict_job, photo, tmp_path):
    path = photo("in/a.png", size=(120, 90))
    assert predict_job("in", "--output", "out", "--crops", "--json")[0] == 0
    pixels = decode_image(path.read_bytes())
    results = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    crops = sorted((tmp_path / "out" / "crops").rglob("*.png"), key=lambda crop: crop.name)
    assert len(crops) == len(results) > 0
    for crop, result in zip(crops, results, strict=True):
        cut = np.asarray(Image.open(crop))
        x, y, width, height = result["bbox"]
        left, top = int(x), int(y)
        assert crop.parent.name == result["category_name"]
        assert cut.shape[1] - 2 <= width <= cut.shape[1] and cut.shape[0] - 2 <= height
        part = (slice(top, top + cut.shape[0]), slice(left, left + cut.shape[1]))
        assert (cut[..., :3] == pixels[part]).all()
        mask = rle_codec.decode(result["segmentation"])[part]
        assert ((cut[..., 3] == 255) != mask).sum() <= 1


def test_damaged_images_are_named_and_the_others_are_done(predict_job, photo, tmp_path):
    whole = photo("in/a.jpg")
    (tmp_path / "in" / "cut.jpg").write_bytes(whole.read_bytes()[:900])
    (tmp_path / "in" / "text.png").write_text("no image")
    status, output, errors = predict_job("in", "--output", "out", "--json")
    assert status == 5
    assert "images      1" in output and "unreadable  2" in output
    assert "in/cut.jpg: cannot be decoded" in errors and "in/text.png: cannot be" in errors
    assert errors.splitlines()[-1].endswith("2 inputs could not be read completely; see above")
    images = json.loads((tmp_path / "out" / "coco_images.json").read_text())
    assert [("error" in image) for image in images] == [False, True, True]
    assert [path.name for path in (tmp_path / "out").glob("*.[jp]*g")] == ["a.jpg"]


def test_inputs_are_never_overwritten(predict_job, photo):
    path = photo("in/a.jpg")
    content = path.read_bytes()
    for output in ("in", "in/../in", str(path.parent)):
        status, _, errors = predict_job("in", "--output", output, "--overwrite")
        assert status == 1
        assert "is an input and would be replaced" in errors.splitlines()[-1]
    (path.parent.parent / "link").symlink_to(path.parent)
    assert predict_job("in", "--output", "link", "--overwrite")[0] == 1
    assert path.read_bytes() == content


def test_existing_files_are_replaced_only_on_request(predict_job, photo, tmp_path):
    photo("in/a.jpg"), photo("in/b.jpg")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.jpg").write_text("precious")
    status, _, errors = predict_job("in", "--output", "out")
    assert status == 1
    assert "out has b.jpg already" in errors and "--overwrite" in errors
    assert (tmp_path / "out" / "b.jpg").read_text() == "precious"
    assert not (tmp_path / "out" / "a.jpg").exists()
    assert predict_job("in", "--output", "out", "--overwrite")[0] == 0
    assert Image.open(tmp_path / "out" / "b.jpg").size == (480, 360)


@pytest.mark.parametrize("output", ["taken", "taken/below", "/proc/nowhere"])
def test_an_output_that_cannot_be_written_is_refused_at_once(predict_job, photo, output, tmp_path):
    photo("in/a.jpg")
    (tmp_path / "taken").write_text("a file")
    status, _, errors = predict_job("in", "--output", output)
    assert status == 1
    assert "cannot write to" in errors.splitlines()[-1]
    assert "loading PyTorch" not in errors


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nosuch.jpg"], 1, "nosuch.jpg: no such file or folder"),
        (["in", "--min-score", "7"], 2, "min_score: must be less than or equal to 1; got 7.0"),
        ([], 2, "name the images or videos to predict on, or a webcam"),
        (["in", "--webcam", "0"], 2, "not both"),
        (["in", "--webcam", ""], 2, "not both"),
        (["in", "--config", "nosuch.yaml"], 2, "nosuch.yaml"),
    ],
)
def test_wrong_arguments_end_in_one_line(predict_job, photo, arguments, status, message, capsys):
    from workflows import predict

    photo("in/a.jpg")
    assert predict.main(["nomodel" if message.startswith("MODEL") else ".", *arguments]) == status
    assert message in capsys.readouterr().err


def test_a_missing_model_is_named_before_pytorch_is_imported(predict_job, photo):
    photo("in/a.jpg")
    status, _, errors = predict_job("in", model="nosuch.pth")
    assert (status, "loading PyTorch" in errors) == (1, False)
    assert re.search(r"MODEL .*nosuch.pth: no such file or folder", errors)


def test_a_registered_model_needs_to_know_its_store(predict_job, photo, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    photo("in/a.jpg")
    status, _, errors = predict_job("in", model="models:/shapes@champion")
    assert status == 1
    assert "set MLFLOW_TRACKING_URI" in errors.splitlines()[-1]


def test_an_interruption_keeps_what_was_done(predict_job, photo, tmp_path, monkeypatch):
    for number in range(6):
        photo(f"in/{number}.png", seed=number)
    whole = image_files.predict_images

    def interrupted(*arguments):
        for number, prediction in enumerate(whole(*arguments)):
            if number == 3:
                raise KeyboardInterrupt
            yield prediction

    monkeypatch.setattr(image_files, "predict_images", interrupted)
    status, output, errors = predict_job("in", "--output", "out", "--json")
    assert status == 130
    assert "images      3" in output
    assert errors.splitlines()[-1].endswith("interrupted; what was done stays")
    images = json.loads((tmp_path / "out" / "coco_images.json").read_text())
    assert [image["file_name"] for image in images] == ["0.png", "1.png", "2.png"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        image["file_name"] for image in images
    ]


def test_local_images_need_neither_ray_nor_mlflow_nor_pyav(tiny_checkpoint, photo, tmp_path):
    photo("in/a.png")
    process = subprocess.run(
        [
            sys.executable,
            "-X",
            "importtime",
            ROOT / "workflows" / "predict.py",
            tiny_checkpoint,
            "in",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert (tmp_path / "predictions" / "a.png").exists()
    imported = set(re.findall(r"^import time:.*\| +(\w+)", process.stderr, re.MULTILINE))
    assert "torch" in imported
    assert not imported & {"ray", "mlflow", "av", "pandas", "torchvision", "matplotlib"}


@pytest.mark.s3
def test_images_of_a_bucket_are_drawn_into_a_bucket(predict_job, photo, s3):
    from pipeline import storage

    url = s3("photos")
    storage.write_bytes(f"{url}/in/a.png", photo("a.png").read_bytes())
    assert predict_job(f"{url}/in", "--output", f"{url}/out", "--json")[0] == 0
    names = [each.removeprefix(url) for each in storage.list_files(f"{url}/out")]
    assert names == ["/out/a.png", "/out/coco_images.json", "/out/coco_results.json"]
    assert decode_image(storage.read_bytes(f"{url}/out/a.png")).shape == (360, 480, 3)
    status, _, errors = predict_job(f"{url}/in", "--output", f"{url}/in", "--overwrite")
    assert (status, "is an input" in errors) == (1, True)


def test_annotations_of_images_are_written_and_those_of_videos_are_not(
    predict_job, photo, clip, tmp_path
):
    photo("in/a.png")
    photo("in/deep/b.png", seed=1)
    clip("in/clip.mp4", times=range(3))
    formats = ("--annotations", "coco,label_studio", "--image-prefix", "https://here/")
    assert predict_job("in", "--output", "out", *formats)[0] == 0
    document = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.png", "deep/b.png"]
    assert {each["image_id"] for each in document["annotations"]} == {1, 2}
    tasks = json.loads((tmp_path / "out" / "label_studio.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        "https://here/a.png",
        "https://here/deep/b.png",
    ]
    status, _, errors = predict_job("in", "--output", "out", *formats)
    assert (status, "already" in errors) == (1, True)


def test_images_of_the_same_name_are_kept_apart_in_records(predict_job, photo, tmp_path):
    photo("first/a.png", size=(80, 60))
    photo("second/a.png", size=(64, 48), seed=1)
    formats = ("--json", "--annotations", "coco,label_studio")
    assert predict_job("first", "second", "--output", "out", *formats)[0] == 0
    images = json.loads((tmp_path / "out" / "annotations.json").read_text())["images"]
    assert [(i["file_name"], i["width"]) for i in images] == [
        ("first/a.png", 80),
        ("second/a.png", 64),
    ]
    tasks = json.loads((tmp_path / "out" / "label_studio.json").read_text())
    assert [t["data"]["image"] for t in tasks] == [
        f"/data/local-files/?d={name}/a.png" for name in ("first", "second")
    ]
    results = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert {each["file_name"] for each in results} == {"first/a.png", "second/a.png"}


def test_annotations_of_videos_alone_are_refused(predict_job, clip):
    clip("clip.mp4", times=range(2))
    status, _, errors = predict_job("clip.mp4", "--annotations", "coco")
    assert (status, "--annotations is for images" in errors) == (1, True)


def test_an_unknown_format_of_annotations_is_a_wrong_setting(predict_job, photo):
    photo("in/a.png")
    status, _, errors = predict_job("in", "--annotations", "yolo")
    assert status == 2
    assert "annotations" in errors and "label_studio" in errors
