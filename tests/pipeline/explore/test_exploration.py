"""The data report shows the samples of the training and counts what the shards hold."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from model.config import InputConfig, KeypointHeadConfig, MaskHeadConfig, ModelConfig
from model.config.settings import ConfigError
from pipeline import storage
from pipeline.config import DataConfig, RunConfig, ShapesConfig, TrainConfig
from pipeline.explore.exploration import run_exploration
from pipeline.explore.samples import draw_samples
from pipeline.ingest.shapes import SHAPE_KEYPOINTS
from pipeline.ingest.splits import prepare_split
from pipeline.output_layout import split_shards_url
from pipeline.shards.manifest import read_manifest
from pipeline.stream.training_stream import open_local_stream
from tests.annotated_datasets import add_invalid_records, draw_coco

PLOTS = ("classes", "object_sizes", "box_shapes", "image_shapes", "objects_per_image")


def shapes_config(output, images=10, **settings):
    return RunConfig(
        output=str(output),
        model=ModelConfig(num_classes=5, input=InputConfig(short_side=48, long_side=64)),
        data=DataConfig(
            shapes=ShapesConfig(images=images, val_images=4, side=48, **settings),
            rows_per_shard=4,
        ),
        train=TrainConfig(global_batch=4),
    )


def change(config, section, **settings):
    values = getattr(config, section).model_copy(update=settings)
    return config.model_copy(update={section: values})


def prepare(config):
    for split in ("train", "val"):
        prepare_split(config, split)
    return config


def png(url):
    return np.asarray(Image.open(io.BytesIO(storage.read_bytes(url))))


@pytest.mark.parametrize("location", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_the_report_samples_and_plots_are_written_below_the_output(request, tmp_path, location):
    output = tmp_path if location == "local" else request.getfixturevalue("s3")("explore")
    config = prepare(shapes_config(output))
    result = run_exploration(change(config, "explore", samples=6))
    folder = storage.join(str(output), "data")
    assert result.report_url == storage.join(folder, "report.md")
    assert result.samples_url == storage.join(folder, "samples.png")
    page = storage.read_bytes(result.report_url).decode()
    for file in re.findall(r"!\[.*?\]\((.*?)\)", page):
        assert png(storage.join(folder, file)).shape[2] >= 3
    names = {url.rpartition("/")[2] for url in storage.list_files(folder)}
    assert names == {"report.md", "samples.png", *(f"{name}.png" for name in PLOTS)}


def test_the_page_counts_images_objects_and_classes(tmp_path):
    config = prepare(shapes_config(tmp_path))
    page = storage.read_bytes(run_exploration(config).report_url).decode()
    train, val = (read_manifest(split_shards_url(config, split)) for split in ("train", "val"))
    assert "| images | 10 | 4 |" in page
    assert f"| objects | {train.counts['objects']} | {val.counts['objects']} |" in page
    rows = re.findall(r"^\| (circle|square|triangle|star|cross) \| (\d+) \| (\d+) \|", page, re.M)
    assert len(rows) == 5
    assert sum(int(objects) for _, _, objects in rows) == train.counts["objects"]
    assert "steps in an epoch of training: 2, of 4 images" in page
    assert "seen per epoch" not in page
    page = storage.read_bytes(
        run_exploration(change(config, "data", repeat_threshold=1.0)).report_url
    ).decode()
    assert "an epoch repeats images of rare classes" in page
    images = {name: int(count) for name, count, _ in rows}
    for name, count in images.items():
        factor = re.search(rf"^\| {name} \|.* ([\d.]+) \|$", page, re.M)[1]
        assert float(factor) == pytest.approx((10 / count) ** 0.5, abs=0.005)


def test_records_left_out_are_listed_by_reason_with_an_example(tmp_path):
    source = draw_coco(tmp_path / "source")
    reasons = add_invalid_records(source)
    source.write_shards(tmp_path / "shards")
    config = shapes_config(tmp_path / "out")
    config = change(config, "data", train_shards=str(tmp_path / "shards"))
    page = storage.read_bytes(run_exploration(config).report_url).decode()
    for reason, number in reasons.items():
        assert f"| {reason} | {number} | left out | " in page
    assert "| box clipped | 1 | corrected | " in page
    assert "| missing image file | 1 | left out | 000002.jpg: " in page


def test_samples_are_the_images_of_the_stream(tmp_path):
    """Without objects, nothing is drawn on them."""
    source = draw_coco(tmp_path / "source")
    del source.document["annotations"][:]
    source.write_shards(tmp_path / "shards")
    url = str(tmp_path / "shards")
    config = change(shapes_config(tmp_path), "model", mask=None)
    config = change(config, "data", flip_probability=0.5)
    config = change(config, "explore", samples=6, first_step=2)
    sheet = draw_samples(config, read_manifest(url), url)
    assert (sheet.samples, sheet.unreadable) == (6, 0)
    with open_local_stream(config, url, 0, 1, 2, 4) as stream:
        pixels = [image[:, :48, :48] for batch in stream for image in batch.images.pixels][:6]
    side, head, gap = 360, 24, 8
    assert sheet.image.shape == (2 * (side + head) + gap, 4 * side + 3 * gap, 3)
    for index, image in enumerate(pixels):
        row, column = divmod(index, 4)
        top, left = row * (side + head + gap) + head, column * (side + gap)
        expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), 3)
        assert np.array_equal(
            sheet.image[top : top + side, left : left + side], np.asarray(expected)
        )


@pytest.mark.parametrize("kind", ["boxes", "masks", "keypoints"])
def test_objects_are_drawn_where_the_targets_are(tmp_path, kind):
    config = prepare(shapes_config(tmp_path, keypoints=True))
    heads = {
        "boxes": {"mask": None, "keypoint": None},
        "masks": {"mask": MaskHeadConfig(), "keypoint": None},
        "keypoints": {"mask": None, "keypoint": KeypointHeadConfig(names=SHAPE_KEYPOINTS)},
    }
    config = change(config, "model", **heads[kind])
    config = change(config, "explore", samples=2)
    url = split_shards_url(config, "train")
    # The second of two samples, 360 pixels wide and 8 apart.
    sheet = draw_samples(config, read_manifest(url), url).image[24:, 368:]
    with open_local_stream(config, url, 0, 1, 0, 1) as stream:
        batch = next(stream)
    pixels = batch.images.pixels[1, :, :48, :48].permute(1, 2, 0).numpy()
    plain = Image.fromarray(pixels).resize((360, 360), 3)
    changed = (sheet != np.asarray(plain)).any(axis=2)
    inside = np.zeros_like(changed)
    first, end = batch.targets.offsets[1:3].tolist()
    assert end > first > 0
    for x1, y1, x2, y2 in (batch.targets.boxes[first:end] * 360 / 48).round().int().tolist():
        assert changed[(y1 + y2) // 2, x1 : x1 + 2].any()
        # With the caption above the box, and keypoints on its border.
        inside[max(0, y1 - 22) : y2 + 5, max(0, x1 - 70) : x2 + 70] = True
    assert not changed[~inside].any()
    share = changed.mean()
    if kind == "masks":
        assert share > 0.1


def test_another_number_of_classes_in_the_model_is_a_warning(tmp_path, caplog):
    config = prepare(change(shapes_config(tmp_path), "model", num_classes=80))
    assert run_exploration(config).samples_url is not None
    assert "model.num_classes is 80, but" in caplog.text and "has 5 classes" in caplog.text


def test_data_that_a_training_would_refuse_is_reported_without_samples(tmp_path):
    config = prepare(shapes_config(tmp_path))
    config = change(config, "model", keypoint=KeypointHeadConfig(names=SHAPE_KEYPOINTS))
    result = run_exploration(config)
    assert result.samples_url is None
    page = storage.read_bytes(result.report_url).decode()
    assert "a training would not start" in page and "has no keypoints" in page
    assert "samples.png" not in page


def test_one_image_mostly_empty_images_and_missing_validation_shards(tmp_path, caplog):
    source = draw_coco(tmp_path / "source")
    source.document["annotations"] = source.document["annotations"][:1]
    source.write_shards(tmp_path / "many")
    source.document["images"] = source.document["images"][:1]
    source.document["annotations"] = []
    source.write_shards(tmp_path / "one")
    for name, images in (("many", 12), ("one", 1)):
        config = change(shapes_config(tmp_path / "out"), "data", train_shards=str(tmp_path / name))
        config = change(change(config, "model", mask=None), "train", global_batch=32)
        result = run_exploration(config)
        page = storage.read_bytes(result.report_url).decode()
        assert f"| images | {images} |" in page
        assert result.samples_url is not None
    assert "no validation shards at" in caplog.text
    assert "classes without an object in train (5): circle, square" in page
    dropping = change(config, "data", images_without_objects="drop")
    assert (
        "a training would not start"
        in storage.read_bytes(run_exploration(dropping).report_url).decode()
    )


def test_a_damaged_shard_is_an_error_and_a_damaged_image_is_counted(tmp_path):
    config = prepare(shapes_config(tmp_path))
    url = split_shards_url(config, "train")
    name = read_manifest(url).files[0].name
    path = tmp_path / "shards" / "train" / name
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xd8\xff\xe0")  # of the first JPEG
    data[start : start + 4] = bytes(4)
    path.write_bytes(data)
    result = run_exploration(change(config, "explore", samples=8))
    assert re.search(r"; \d+ rows were unreadable, so gray", result.summary)
    path.write_bytes(b"no parquet")
    with pytest.raises(storage.StorageError, match=f"{name}: cannot be read"):
        run_exploration(config)


def test_missing_training_shards_are_an_error(tmp_path):
    with pytest.raises(storage.MissingFileError, match="run maskrcnn-ray prepare_shards"):
        run_exploration(shapes_config(tmp_path))


def test_unknown_settings_of_the_report_are_refused():
    from pipeline.config import load_config
    from tests.conftest import ROOT

    with pytest.raises(ConfigError, match=r"did you mean explore\.samples"):
        load_config(ROOT / "configs" / "quickstart.yaml", ["explore.sampels=3"])
