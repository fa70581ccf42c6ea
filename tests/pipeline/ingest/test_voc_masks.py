"""VOC masks are read from the object numbers in their PNG files and checked against the boxes."""

import numpy as np
import pycocotools.mask as coco_masks
import pytest

from pipeline.ingest.shard_writer import write_shards
from pipeline.ingest.voc import read_voc
from tests.annotated_datasets import (
    HEIGHT,
    VOC_IMAGES,
    WIDTH,
    all_rows,
    noise_image,
    voc_xml,
    write_voc,
    write_voc_masks,
)


def write(root, shards, year=2007):
    return write_shards(read_voc(str(root), "val", year, masks=True), str(shards), 8, 8)


def rows_by_name(url):
    return {row.file_name: row for row in all_rows(url)}


@pytest.fixture
def masked(tmp_path):
    """Masks of the chair (object 1) and the person (2) of 000005; empty ones of 000007, 000009."""
    root = write_voc(tmp_path / "VOC2012", VOC_IMAGES, "val", "Segmentation")
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


def test_masks_are_the_pixels_that_hold_the_objects_numbers(masked, tmp_path):
    root, objects, _ = masked
    manifest = write(root, tmp_path / "s")
    row = rows_by_name(tmp_path / "s")["000005.jpg"]
    assert row.boxes.tolist() == [[10, 5, 30, 25], [0, 0, 60, 40]]
    for index in range(2):
        mask = coco_masks.decode({"size": [HEIGHT, WIDTH], "counts": row.rle[index]})
        assert np.array_equal(mask, objects == index + 1)
        assert row.area[index] == (objects == index + 1).sum()
    # Crowd regions aside, only 000007's person has no mask.
    assert manifest.counts["without_mask"] == 1
    assert not manifest.reasons


def test_masks_that_contradict_the_annotations_are_listed(masked, tmp_path):
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
    noise_image(4).save(root / "JPEGImages/000008.jpg")
    (root / "SegmentationClass/000009.png").write_bytes(b"\x89PNG")
    (root / "Annotations/000010.xml").write_text(voc_xml("000010", []))
    noise_image(3).save(root / "JPEGImages/000010.jpg")
    image_list = root / "ImageSets/Segmentation/val.txt"
    image_list.write_text(image_list.read_text() + "000008\n000010\n")
    manifest = write(root, tmp_path / "s")
    assert manifest.reasons == {
        "mask class differs from annotation": 1,
        "mask outside its box": 1,
        "mask without an object": 1,
        "mask file of wrong size or mode": 1,
        "unreadable mask file": 1,
        "missing mask file": 1,
        "image quarantined": 2,
    }
    counts = manifest.counts
    assert counts["images_listed"] == counts["images"] + counts["images_quarantined"]
    assert counts["annotations_listed"] == (
        counts["objects"] + counts["crowd"] + counts["annotations_quarantined"]
    )


@pytest.mark.parametrize("change", ["xml", "mask", "year"])
def test_shards_are_kept_until_the_annotations_change(masked, tmp_path, change):
    root, objects, classes = masked
    first = write(root, tmp_path / "s")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()}
    assert write(root, tmp_path / "s") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").iterdir()} == times
    if change == "xml":
        path = root / "Annotations/000005.xml"
        path.write_text(path.read_text().replace("<xmax>30", "<xmax>31"))
    elif change == "mask":
        objects[10:20:2, 12:20:3] = 0
        write_voc_masks(root, "000005", objects, classes)
    second = write(root, tmp_path / "s", 2012 if change == "year" else 2007)
    assert second.source_digest != first.source_digest
    assert second.digest != first.digest
