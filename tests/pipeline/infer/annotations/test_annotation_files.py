"""Files of annotations: COCO's, which is training data again, and Label Studio's."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_codec
from pycocotools.coco import COCO

from model.structures import Category
from pipeline.config import RunConfig
from pipeline.config.annotations import AnnotationsConfig
from pipeline.infer.annotations.export import write_annotations
from pipeline.infer.annotations.label_studio import image_address
from pipeline.infer.annotations.source import AnnotationSource, delete_annotation_files
from pipeline.infer.annotations.writer import annotation_files
from pipeline.infer.detection_files import write_detection_rows
from pipeline.infer.detection_rows import DetectionRow
from pipeline.ingest.splits import prepare_split
from pipeline.storage import StorageError
from tests.annotated_datasets import all_rows

HEIGHT, WIDTH = 40, 60
CATEGORIES = (Category(10, 'say "a" & <b>'), Category(20, "bé"))
SOURCE = AnnotationSource("models:/parts/3", CATEGORIES, None, has_masks=True)
BOXES = AnnotationSource("boxes", CATEGORIES, None, has_masks=False)


def encode(mask):
    encoded = rle_codec.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def mask_of(*rectangles):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x1, y1, x2, y2 in rectangles:
        mask[y1:y2, x1:x2] = 1
    return mask


WHOLE, SPLIT = mask_of((5, 10, 25, 30)), mask_of((0, 0, 10, 8), (30, 0, 40, 8))
ROW = DetectionRow(
    image_id=7,
    file_name="ü b.png",
    height=HEIGHT,
    width=WIDTH,
    boxes=[[5.0, 10.0, 25.0, 30.0], [0.0, 0.0, 40.0, 8.0]],
    scores=[0.9, 0.25],
    labels=[2, 1],
    category_ids=[20, 10],
    category_names=["bé", 'say "a" & <b>'],
    masks_rle=[encode(WHOLE), encode(SPLIT)],
    error=None,
)
EMPTY = DetectionRow(8, "none.png", HEIGHT, WIDTH, [], [], [], [], [], [], None)
BROKEN = DetectionRow(9, "broken.png", None, None, [], [], [], [], [], None, "cannot be decoded")


def write(folder, rows=(ROW, EMPTY, BROKEN), formats=("coco", "label_studio"), source=SOURCE):
    with annotation_files(formats, source, str(folder), lambda name: f"at {name}") as add:
        for row in rows:
            add(row)
    return {path.name: path for path in folder.iterdir()}


def test_a_coco_dataset_has_the_objects_of_all_images(tmp_path):
    dataset = COCO(str(write(tmp_path)["annotations.json"]))
    assert [image["file_name"] for image in dataset.loadImgs(dataset.getImgIds())] == [
        "ü b.png",
        "none.png",
    ]
    first, second = dataset.loadAnns(dataset.getAnnIds(imgIds=[7]))
    assert (first["category_id"], first["score"], first["area"]) == (20, 0.9, 400)
    assert first["bbox"] == [5, 10, 20, 20]
    assert len(second["segmentation"]) == 2
    for annotation, mask in ((first, WHOLE), (second, SPLIT)):
        np.testing.assert_array_equal(dataset.annToMask(annotation), mask)
    assert [each["name"] for each in dataset.loadCats([10, 20])] == [c.name for c in CATEGORIES]
    assert dataset.dataset["info"]["description"] == "predictions of models:/parts/3"


def test_annotations_can_be_trained_on(tmp_path):
    images, output = tmp_path / "images", tmp_path / "output"
    images.mkdir()
    for row in (ROW, EMPTY):
        Image.new("RGB", (WIDTH, HEIGHT)).save(images / row.file_name)
    written = write(tmp_path)
    part = {"annotations": str(written["annotations.json"]), "images": str(images)}
    data = {"source": "coco", "train": part, "val": part}
    config = RunConfig.model_validate({"output": str(output), "data": data})
    manifest = prepare_split(config, "train")
    assert (manifest.rows, manifest.reasons, manifest.corrected) == (2, {}, {})
    assert [category.name for category in manifest.categories] == [c.name for c in CATEGORIES]


def test_annotations_of_turned_photos_are_trained_on_upright_images(tmp_path):
    """Turned by 180 degrees the sizes agree either way, so the document itself must say it."""
    images, exif = tmp_path / "images", Image.Exif()
    images.mkdir()
    exif[0x0112] = 3
    Image.new("RGB", (WIDTH, HEIGHT)).save(images / ROW.file_name, exif=exif)
    written = write(tmp_path, [ROW])
    part = {"annotations": str(written["annotations.json"]), "images": str(images)}
    data = {"source": "coco", "train": part, "val": part}
    config = RunConfig.model_validate({"output": str(tmp_path / "output"), "data": data})
    manifest = prepare_split(config, "train")
    assert (manifest.counts["images_turned"], manifest.counts["orientation_unclear"]) == (1, 0)
    [row] = all_rows(tmp_path / "output" / "shards" / "train")
    assert row.orientation == 3


def test_boxes_without_masks_are_annotations_too(tmp_path):
    row = replace(ROW, masks_rle=None)
    written = write(tmp_path, [row], source=BOXES)
    [first, _] = json.loads(written["annotations.json"].read_text())["annotations"]
    assert (first["segmentation"], first["area"]) == ([], 400)
    [task] = json.loads(written["label_studio.json"].read_text())
    region = task["predictions"][0]["result"][1]
    assert region["type"] == "rectanglelabels"
    assert region["value"]["width"] == pytest.approx(100 * 40 / WIDTH)
    assert region["value"]["rectanglelabels"] == ['say "a" & <b>']
    assert "RectangleLabels" in written["label_studio.xml"].read_text()


def test_keypoints_are_in_the_coco_dataset(tmp_path):
    source = replace(SOURCE, keypoint_names=("nose", "tail"))
    points = [[[6.0, 11.0, 3.5], [20.0, 25.0, -1.0]]] * 2
    written = write(tmp_path, [replace(ROW, keypoints=points)], ["coco"], source)
    document = json.loads(written["annotations.json"].read_text())
    assert document["categories"][0]["keypoints"] == ["nose", "tail"]
    [first, _] = document["annotations"]
    assert (first["keypoints"], first["num_keypoints"]) == ([5.5, 10.5, 2, 19.5, 24.5, 2], 2)


def test_label_studio_gets_a_region_for_each_part_in_percent(tmp_path):
    written = write(tmp_path)
    task, empty = json.loads(written["label_studio.json"].read_text())
    assert task["data"] == {"image": "at ü b.png", "image_id": 7}
    [prediction] = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("models:/parts/3", 0.25)
    regions = prediction["result"]
    assert [region["id"] for region in regions] == ["1", "2-1", "2-2"]
    points = np.array(regions[0]["value"]["points"]) / 100 * (WIDTH, HEIGHT)
    assert (*points.min(axis=0), *points.max(axis=0)) == pytest.approx((5, 10, 25, 30))
    assert regions[0]["value"]["polygonlabels"] == ["bé"]
    assert {(region["from_name"], region["to_name"]) for region in regions} == {("label", "image")}
    assert empty["predictions"][0]["result"] == []


def test_the_labeling_interface_has_all_names(tmp_path):
    view = ElementTree.fromstring(write(tmp_path)["label_studio.xml"].read_text(encoding="utf-8"))
    [labels] = view.findall("PolygonLabels")
    assert (labels.get("name"), labels.get("toName")) == ("label", "image")
    assert [label.get("value") for label in labels] == [each.name for each in CATEGORIES]


def test_a_proposal_network_has_objects_without_names(tmp_path):
    source = AnnotationSource("rpn", (), None, has_masks=False)
    row = replace(ROW, masks_rle=None, category_ids=None, category_names=None, labels=[1, 1])
    written = write(tmp_path, [row], source=source)
    document = json.loads(written["annotations.json"].read_text())
    assert document["categories"] == [{"id": 1, "name": "object"}]
    assert {each["category_id"] for each in document["annotations"]} == {1}
    assert '<Label value="object"/>' in written["label_studio.xml"].read_text()


def test_files_are_whole_without_images_and_after_an_error(tmp_path):
    written = write(tmp_path, [])
    assert json.loads(written["annotations.json"].read_text())["images"] == []
    assert json.loads(written["label_studio.json"].read_text()) == []
    with (
        pytest.raises(RuntimeError, match="stopped"),
        annotation_files(["coco"], SOURCE, str(tmp_path), str, after_errors=True) as add,
    ):
        add(ROW)
        raise RuntimeError("stopped")
    assert len(json.loads(written["annotations.json"].read_text())["annotations"]) == 2
    delete_annotation_files(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_if_an_output_file_is_damaged(tmp_path):
    """A later reader could not see that images are missing."""
    urls = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    for url in urls:
        write_detection_rows(url, [ROW])
    Path(urls[1]).write_bytes(Path(urls[1]).read_bytes()[:100])
    config = AnnotationsConfig(formats=("coco", "label_studio"))
    with pytest.raises(StorageError, match=r"1\.parquet: not a complete file"):
        write_annotations(config, SOURCE, "/images/{}".format, str(tmp_path / "out"), urls)
    assert not (tmp_path / "out").exists()


def test_names_that_xml_cannot_hold_are_the_same_in_both_files(tmp_path):
    bell = "b\x07ell"
    source = replace(SOURCE, categories=(Category(1, bell),))
    row = replace(ROW, category_ids=[1, 1], category_names=[bell, bell], labels=[1, 1])
    written = write(tmp_path, [row], ["label_studio"], source)
    view = ElementTree.fromstring(written["label_studio.xml"].read_text(encoding="utf-8"))
    [task] = json.loads(written["label_studio.json"].read_text())
    [name] = [label.get("value") for label in view.iter("Label")]
    assert task["predictions"][0]["result"][0]["value"]["polygonlabels"] == [name]


@pytest.mark.parametrize(
    ("url", "prefix", "address"),
    [
        ("s3://bucket/in/a b.jpg", None, "s3://bucket/in/a b.jpg"),
        ("gs://bucket/in/a b.jpg", None, "gs://bucket/in/a b.jpg"),
        ("az://bucket/in/a b.jpg", None, "azure-blob://bucket/in/a b.jpg"),
        ("abfss://b@a.dfs.core.windows.net/in/a b.jpg", None, "azure-blob://b/in/a b.jpg"),
        ("/in/a b.jpg", None, "/data/local-files/?d=a%20b.jpg"),
        ("/in/a b.jpg", "https://images.example/", "https://images.example/a%20b.jpg"),
        ("/in/a b.jpg", "s3://bucket/other/", "s3://bucket/other/a b.jpg"),
        ("/in/a b.jpg", "azure-blob://bucket/other/", "azure-blob://bucket/other/a b.jpg"),
    ],
)
def test_the_address_of_an_image_is_one_that_label_studio_can_open(url, prefix, address):
    assert image_address("a b.jpg", url, prefix) == address


@pytest.mark.parametrize("prefix", [None, "https://images.example/", "s3://bucket/other/"])
@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("s3://b/in/a b.jpg", "s3://b/in/a b.jpg"),
        ("az://b/in/a b.jpg", "azure-blob://b/in/a b.jpg"),
        ("https://host/a%20b.jpg", "https://host/a%20b.jpg"),
        ("/in/a b.jpg", "/data/local-files/?d=/in/a%20b.jpg"),
        ("file:///in/a%20b.jpg", "/data/local-files/?d=/in/a%20b.jpg"),
    ],
)
def test_a_name_that_is_a_whole_address_gets_no_prefix(name, address, prefix):
    assert image_address(name, name, prefix) == address
