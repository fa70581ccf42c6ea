"""VOC boxes become continuous pixels, difficult objects crowd regions; the rest is listed."""

import pytest

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.ingest.rejects import InvalidRecordError
from pipeline.ingest.shard_writer import write_shards
from pipeline.ingest.splits import prepare_split
from pipeline.ingest.voc import read_voc
from pipeline.ingest.voc_classes import VOC_CLASSES
from pipeline.ingest.voc_xml import parse_annotation
from pipeline.stream.samples import sample_from_row
from tests.annotated_datasets import (
    VOC_IMAGES,
    all_rows,
    noise_image,
    quarantine_entries,
    voc_object,
    voc_xml,
    write_voc,
)


@pytest.fixture
def root(tmp_path):
    return write_voc(tmp_path / "VOC2007", VOC_IMAGES)


def write(root, shards):
    return write_shards(read_voc(str(root), "trainval", 2007), str(shards), 8, 8)


def rows_by_name(url):
    return {row.file_name: row for row in all_rows(url)}


def test_boxes_start_one_pixel_earlier_and_labels_are_in_the_order_of_voc(root, tmp_path):
    manifest = write(root, tmp_path / "s")
    assert [category.name for category in manifest.categories] == list(VOC_CLASSES)
    assert (len(VOC_CLASSES), VOC_CLASSES[0], VOC_CLASSES[14], VOC_CLASSES[19]) == (
        *(20, "aeroplane", "person", "tvmonitor"),
    )
    rows = rows_by_name(tmp_path / "s")
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


def test_a_difficult_object_is_a_crowd_region_and_not_a_training_target(root, tmp_path):
    manifest = write(root, tmp_path / "s")
    row = rows_by_name(tmp_path / "s")["000007.jpg"]
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
def test_a_document_type_is_refused_before_entities_expand(kind):
    head = HOSTILE[kind] or HOSTILE["laughs"]
    text = voc_xml("x", [voc_object("&l8;", 1, 1, 2, 2)], head)
    data = text.encode("utf-16" if kind == "utf16" else "utf-8")
    with pytest.raises(InvalidRecordError, match="document type"):
        parse_annotation(data)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<annotation>",
        "not xml",
        "<other/>",
        "<annotation><size><width>x</width><height>4</height></size></annotation>",
        '<?xml version="1.0" encoding="no-such"?><annotation/>',
        "<annotation>" + "<a>" * 100_000,
        voc_xml("a", [], head='<!DOCTYPE a [<!ENTITY b "c">]>'),
    ],
)
def test_an_unreadable_annotation_file_is_listed_and_its_image_left_out(tmp_path, text):
    root = write_voc(tmp_path / "VOC2007", {**VOC_IMAGES, "000011": text})
    manifest = write(root, tmp_path / "s")
    assert manifest.reasons == {"unreadable annotation file": 1}
    assert (manifest.counts["images_listed"], manifest.counts["images"]) == (4, 3)
    [entry] = quarantine_entries(tmp_path / "s")
    assert (entry["record"], entry["file"]) == ("image", "Annotations/000011.xml")


def test_every_invalid_record_is_listed_counted_and_left_out(tmp_path):
    objects = [
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
    images = {"1": objects, "2": [voc_object("dog", 1, 1, 9, 9)], "3": [], "4": [], "5": []}
    root = write_voc(tmp_path / "VOC2012", images)
    (root / "JPEGImages/2.jpg").unlink()
    (root / "Annotations/3.xml").unlink()
    noise_image(9, (50, 50)).save(root / "JPEGImages/4.jpg")
    image_list = root / "ImageSets/Main/trainval.txt"
    image_list.write_text(image_list.read_text() + "../../etc/passwd\n5 -1\n1\n01\n")
    manifest = write(root, tmp_path / "s")
    assert manifest.reasons == {
        "unknown category": 1,
        "malformed annotation": 3,
        "non-finite coordinates": 1,
        "box outside its image": 1,
        "degenerate box": 1,
        "missing image file": 1,
        "image quarantined": 1,
        "missing annotation file": 2,
        "image size differs from annotations": 1,
        "invalid image name": 2,
        "image listed twice": 1,
    }
    counts = manifest.counts
    assert counts["images_listed"] == 9 == counts["images"] + counts["images_quarantined"]
    assert counts["annotations_listed"] == 10 == counts["objects"] + 8
    assert counts["annotations_quarantined"] == 8
    assert counts["clipped"] == 1
    [dragon] = [x for x in quarantine_entries(tmp_path / "s") if x["reason"] == "unknown category"]
    assert (dragon["file"], dragon["annotation_id"]) == ("1.jpg", 1)
    assert "dragon" in dragon["detail"]


@pytest.mark.parametrize("text", ["", "\n \n", "../x\n"])
def test_an_empty_image_list_is_an_error(root, text):
    (root / "ImageSets/Main/none.txt").write_text(text)
    with pytest.raises(storage.StorageError, match=r"none\.txt: lists no images"):
        read_voc(str(root), "none", 2007)


def test_the_error_of_a_missing_image_list_names_the_available_ones(root):
    (root / "ImageSets/Main/car_val.txt").write_text("000005 -1\n")
    with pytest.raises(
        storage.StorageError, match=r"tests\.txt: no such image list; available: trainval$"
    ):
        read_voc(str(root), "tests", 2007)


@pytest.mark.parametrize("location", ["local", pytest.param("s3", marks=pytest.mark.s3)])
def test_the_sets_of_two_years_are_configured_as_one_split(request, tmp_path, location):
    write_voc(tmp_path / "in/VOC2007", VOC_IMAGES)
    write_voc(tmp_path / "in/VOC2012", {"2008_000002": [voc_object("dog", 2, 2, 5, 5)]})
    url = str(tmp_path)
    if location == "s3":
        url = request.getfixturevalue("s3")("voc")
        storage.upload_folder(tmp_path, url)
    sets = [{"root": f"{url}/in/VOC{year}", "set": "trainval"} for year in (2007, 2012)]
    data = {"source": "voc", "train": sets, "val": sets[0]}
    config = RunConfig.model_validate({"output": f"{url}/out", "data": data})
    train, val = prepare_split(config, "train"), prepare_split(config, "val")
    assert (train.rows, val.rows) == (4, 3)
    assert (train.protocol, val.protocol) == ("voc_area", "voc_11_points")
    assert {row.image_id for row in rows_by_name(f"{url}/out/shards/train").values()} == {
        *(5, 7, 9, 2008000002),
    }
