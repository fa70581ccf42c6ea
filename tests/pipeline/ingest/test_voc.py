"""VOC as shards: boxes in continuous pixels, difficult objects as crowd, the rest named."""

import json

import numpy as np
import pycocotools.mask as coco_masks
import pytest

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.ingest.listing import image_id_from_name
from pipeline.ingest.shard_writer import write_shards
from pipeline.ingest.splits import prepare_split
from pipeline.ingest.validate import AnnotationError
from pipeline.ingest.voc import VOC_CLASSES, parse_annotation, read_voc
from pipeline.shards.manifest import read_manifest
from pipeline.shards.row import read_rows
from pipeline.storage import StorageError
from pipeline.stream.collate import sample_from_row
from tests.annotated_datasets import (
    HEIGHT,
    WIDTH,
    picture,
    voc_object,
    voc_xml,
    write_voc,
    write_voc_masks,
)

HEAD_OF_A_PERSON = """
    <part><name>head</name>
      <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"""

IMAGES = {
    "000005": [voc_object("chair", 11, 6, 30, 25), voc_object("person", 1, 1, 60, 40)],
    "000007": [
        voc_object("car", 3.5, 4, 20, 9, difficult=1),
        voc_object("person", 21, 11, 40, 30, extra=HEAD_OF_A_PERSON),
    ],
    "000009": [],
}


@pytest.fixture
def root(tmp_path):
    return write_voc(tmp_path / "VOC2007", IMAGES)


def write(root, shards, image_set="trainval", masks=False):
    return write_shards(read_voc(str(root), image_set, 2007, masks), str(shards), 8, 8)


def rows_of(url):
    files = read_manifest(str(url)).files
    rows = [row for file in files for row in read_rows(str(url), file.name)]
    return {row.file_name: row for row in rows}


def quarantine_of(shards):
    return [json.loads(line) for line in (shards / "quarantine.jsonl").read_text().splitlines()]


def test_boxes_lose_one_pixel_at_the_left_and_the_top_and_labels_are_in_vocs_order(root, tmp_path):
    manifest = write(root, tmp_path / "s")
    assert [category.name for category in manifest.categories] == list(VOC_CLASSES)
    assert (len(VOC_CLASSES), VOC_CLASSES[0], VOC_CLASSES[14], VOC_CLASSES[19]) == (
        *(20, "aeroplane", "person", "tvmonitor"),
    )
    rows = rows_of(tmp_path / "s")
    assert set(rows) == {"000005.jpg", "000007.jpg", "000009.jpg"}
    first = rows["000005.jpg"]
    assert first.image_id == 5
    assert first.boxes.tolist() == [[10, 5, 30, 25], [0, 0, 60, 40]]
    assert first.labels.tolist() == [9, 15]
    assert first.area.tolist() == [400, 2400]
    assert first.image_bytes == (root / "JPEGImages/000005.jpg").read_bytes()
    second = rows["000007.jpg"]
    assert second.boxes.tolist() == [[2.5, 3, 20, 9], [20, 10, 40, 30]]
    assert len(rows["000009.jpg"].boxes) == 0
    assert manifest.protocol == "voc_11_points"
    assert not manifest.reasons


def test_a_difficult_object_is_kept_as_crowd_and_not_trained_on(root, tmp_path):
    manifest = write(root, tmp_path / "s")
    row = rows_of(tmp_path / "s")["000007.jpg"]
    assert row.iscrowd.tolist() == [True, False]
    assert (manifest.counts["objects"], manifest.counts["crowd"]) == (3, 1)
    assert sample_from_row(row, with_masks=False).targets.labels.tolist() == [15]


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 9))
HOSTILE = {
    "laughs": f'<!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]>',
    "file": '<!DOCTYPE a [<!ENTITY l8 SYSTEM "file:///etc/hostname">]>',
    "dtd": '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/a.dtd">',
    "utf16": None,
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_a_document_type_is_refused_before_an_entity_is_expanded(kind):
    head = HOSTILE[kind] or HOSTILE["laughs"]
    text = voc_xml("x", [voc_object("&l8;", 1, 1, 2, 2)], head)
    data = text.encode("utf-16" if kind == "utf16" else "utf-8")
    with pytest.raises(AnnotationError, match="document type"):
        parse_annotation(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<annotation>",
        "not xml",
        "<other/>",
        "<annotation/>",
        "<annotation><size><width>x</width><height>4</height></size></annotation>",
        '<?xml version="1.0" encoding="no-such"?><annotation/>',
        "<annotation>" + "<a>" * 100_000,
        voc_xml("a", [], head='<!DOCTYPE a [<!ENTITY b "c">]>'),
    ],
)
def test_an_unreadable_annotation_file_is_named_and_its_image_left_out(tmp_path, text):
    root = write_voc(tmp_path / "VOC2007", {**IMAGES, "000011": text})
    manifest = write(root, tmp_path / "s")
    assert manifest.reasons == {"unreadable annotation file": 1}
    assert (manifest.counts["images_listed"], manifest.counts["images"]) == (4, 3)
    [line] = quarantine_of(tmp_path / "s")
    assert (line["record"], line["file"]) == ("image", "Annotations/000011.xml")


def test_every_bad_record_is_named_counted_and_left_out(tmp_path):
    bad = [
        voc_object("dragon", 1, 1, 9, 9),
        voc_object("cat", "one", 1, 9, 9),
        voc_object("cat", "nan", 1, 9, 9),
        voc_object("cat", 70, 1, 90, 9),
        voc_object("cat", 9, 9, 5, 12),
        voc_object("cat", 0, 1, 9, 9),
        voc_object("cat", 1, 1, 9, 9, difficult="maybe"),
        "<object><name>cat</name></object>",
        voc_object("cat", 1, 1, 9, 9),
    ]
    images = {"1": bad, "2": [voc_object("dog", 1, 1, 9, 9)], "3": [], "4": [], "5": []}
    root = write_voc(tmp_path / "VOC2012", images)
    (root / "JPEGImages/2.jpg").unlink()
    (root / "Annotations/3.xml").unlink()
    picture(9, (50, 50)).save(root / "JPEGImages/4.jpg")
    listed = root / "ImageSets/Main/trainval.txt"
    listed.write_text(listed.read_text() + "../../etc/passwd\n5 -1\n1\n01\n")
    manifest = write(root, tmp_path / "s")
    assert manifest.reasons == {
        "unknown category": 1,
        "malformed annotation": 3,
        "non-finite coordinates": 1,
        "box outside its image": 1,
        "degenerate box": 1,
        "missing image file": 1,
        "its image is quarantined": 1,
        "missing annotation file": 1,
        "image size differs from its annotations": 1,
        "malformed image record": 2,
        "listed twice": 1,
        "duplicate image id": 1,
    }
    counts = manifest.counts
    assert counts["images_listed"] == 9 == counts["images"] + counts["images_quarantined"]
    assert counts["annotations_listed"] == 10 == counts["objects"] + 8
    assert counts["annotations_quarantined"] == 8
    assert counts["clipped"] == 1
    [dragon] = [x for x in quarantine_of(tmp_path / "s") if x["reason"] == "unknown category"]
    assert (dragon["file"], dragon["annotation_id"]) == ("1.jpg", 1)
    assert "dragon" in dragon["detail"]


@pytest.mark.parametrize("text", ["", "\n \n", "../x\n"])
def test_an_empty_list_is_an_error(root, text):
    (root / "ImageSets/Main/none.txt").write_text(text)
    with pytest.raises(StorageError, match=r"none\.txt: names no image"):
        read_voc(str(root), "none", 2007)


def test_a_list_that_is_not_there_is_an_error_that_names_those_that_are(root):
    (root / "ImageSets/Main/car_val.txt").write_text("000005 -1\n")
    with pytest.raises(StorageError, match=r"tests\.txt: no such list; there are: trainval$"):
        read_voc(str(root), "tests", 2007)


def test_the_same_name_is_the_same_number_and_digits_are_themselves():
    assert (image_id_from_name("000005"), image_id_from_name("2008_000002")) == (5, 2008000002)
    names = [f"img-{n}" for n in range(500)] + ["9" * 30, "²"]
    numbers = [image_id_from_name(name) for name in names]
    assert numbers == [image_id_from_name(name) for name in names]
    assert len(set(numbers)) == len(names) and max(numbers) < 2**53


@pytest.fixture
def masked(tmp_path):
    """Image 000005 with masks of its chair (object 1) and person (2); 000007 with none drawn."""
    root = write_voc(tmp_path / "VOC2012", IMAGES, "val", "Segmentation")
    objects, classes = np.zeros((2, HEIGHT, WIDTH), dtype=np.uint8)
    for name in ("000007", "000009"):
        write_voc_masks(root, name, objects, classes)
    objects[6:24, 11:29] = 1
    classes[6:24, 11:29] = 9
    objects[30:38, 5:50] = 2
    objects[0:3, 59] = 2
    classes[objects == 2] = 15
    objects[5, 10:30] = classes[5, 10:30] = 255
    write_voc_masks(root, "000005", objects, classes)
    return root, objects, classes


def test_masks_are_the_pixels_of_the_objects_numbers(masked, tmp_path):
    root, objects, _ = masked
    manifest = write(root, tmp_path / "s", "val", masks=True)
    row = rows_of(tmp_path / "s")["000005.jpg"]
    assert row.boxes.tolist() == [[10, 5, 30, 25], [0, 0, 60, 40]]
    for index in range(2):
        mask = coco_masks.decode({"size": [HEIGHT, WIDTH], "counts": row.rle[index]})
        assert np.array_equal(mask, objects == index + 1)
        assert row.area[index] == (objects == index + 1).sum()
    # Crowd regions aside, only 000007's person has no mask.
    assert manifest.counts["without_mask"] == 1
    assert not manifest.reasons


def test_masks_that_contradict_the_boxes_are_named(masked, tmp_path):
    root, objects, classes = masked
    classes[objects == 1] = 8
    objects[39, :] = 7
    write_voc_masks(root, "000005", objects, classes)
    write_voc_masks(root, "000007", objects[:, :50], classes[:, :50])
    far = np.zeros((HEIGHT, WIDTH))
    far[35:, 25:30] = 2
    far[29, 25:29] = 2  # the last row of the person's box: 4 pixels of 29
    write_voc_masks(root, "000008", far, 7.5 * far)
    (root / "Annotations/000008.xml").write_text((root / "Annotations/000007.xml").read_text())
    picture(4).save(root / "JPEGImages/000008.jpg")
    (root / "SegmentationClass/000009.png").write_bytes(b"\x89PNG")
    (root / "Annotations/000010.xml").write_text(voc_xml("000010", []))
    picture(3).save(root / "JPEGImages/000010.jpg")
    listed = root / "ImageSets/Segmentation/val.txt"
    listed.write_text(listed.read_text() + "000008\n000010\n")
    manifest = write(root, tmp_path / "s", "val", masks=True)
    assert manifest.reasons == {
        "mask of another class": 1,
        "mask of another object": 1,
        "mask without an object": 1,
        "mask file does not fit its image": 1,
        "unreadable mask file": 1,
        "missing mask file": 1,
        "its image is quarantined": 2,
    }
    counts = manifest.counts
    assert counts["images_listed"] == counts["images"] + counts["images_quarantined"]
    assert counts["annotations_listed"] == (
        counts["objects"] + counts["crowd"] + counts["annotations_quarantined"]
    )


@pytest.mark.parametrize("change", ["xml", "mask", "year"])
def test_shards_stand_until_the_annotations_change(masked, tmp_path, change):
    root, objects, classes = masked
    first = write(root, tmp_path / "s", "val", masks=True)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()}
    assert write(root, tmp_path / "s", "val", masks=True) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()} == stamps
    if change == "xml":
        path = root / "Annotations/000005.xml"
        path.write_text(path.read_text().replace("<xmax>30", "<xmax>31"))
    elif change == "mask":
        objects[10:20:2, 12:20:3] = 0
        write_voc_masks(root, "000005", objects, classes)
    listing = read_voc(str(root), "val", 2012 if change == "year" else 2007, masks=True)
    second = write_shards(listing, str(tmp_path / "s"), 8, 8)
    assert second.source_digest != first.source_digest
    assert second.digest != first.digest


@pytest.mark.parametrize("place", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_the_configuration_reads_the_sets_of_two_years_as_one(request, tmp_path, place):
    write_voc(tmp_path / "in/VOC2007", IMAGES)
    write_voc(tmp_path / "in/VOC2012", {"2008_000002": [voc_object("dog", 2, 2, 5, 5)]})
    url = str(tmp_path)
    if place == "s3":
        url = request.getfixturevalue("s3")("voc")
        storage.upload_folder(tmp_path, url)
    sets = [{"root": f"{url}/in/VOC{year}", "set": "trainval"} for year in (2007, 2012)]
    data = {"source": "voc", "train": sets, "val": sets[0]}
    config = RunConfig.model_validate({"output": f"{url}/out", "data": data})
    train, val = prepare_split(config, "train"), prepare_split(config, "val")
    assert (train.rows, val.rows) == (4, 3)
    assert (train.protocol, val.protocol) == ("voc_area", "voc_11_points")
    assert {row.image_id for row in rows_of(f"{url}/out/shards/train").values()} == {
        *(5, 7, 9, 2008000002),
    }
