"""COCO files as tools export them: ids of any type, missing sizes, partly damaged masks."""

import uuid

import numpy as np
import pytest

from pipeline.ingest.coco import read_coco
from pipeline.ingest.quarantine import QuarantineError
from pipeline.ingest.shard_writer import write_shards
from pipeline.shards.coco_ground_truth import coco_ground_truth
from pipeline.stream.samples import sample_from_row
from tests.annotated_datasets import all_rows, draw_coco, quarantine_entries


@pytest.fixture
def source(tmp_path):
    return draw_coco(tmp_path / "source")


@pytest.fixture
def shards(tmp_path):
    return tmp_path / "shards"


def objects_by_file(url):
    return {row.file_name: (row.boxes.tolist(), row.labels.tolist()) for row in all_rows(url)}


def per_image(document):
    seen = {}
    for annotation in document["annotations"]:
        annotation["id"] = seen[annotation["image_id"]] = seen.get(annotation["image_id"], 0) + 1


def missing(document):
    for annotation in document["annotations"]:
        del annotation["id"]


def all_of(make):
    def change(document):
        for annotation in document["annotations"]:
            annotation["id"] = make(annotation["id"])

    return change


@pytest.mark.parametrize(
    "change",
    [
        per_image,
        missing,
        all_of(lambda _: 0),
        all_of(lambda _: None),
        all_of(str),
        all_of(lambda _: str(uuid.uuid4())),
        all_of(lambda number: [number]),
        all_of(lambda number: 2**70 + number),
    ],
)
def test_annotations_are_kept_whatever_their_ids(source, shards, tmp_path, change):
    expected = source.write_shards(tmp_path / "tidy")
    change(source.document)
    manifest = source.write_shards(shards)
    assert not manifest.reasons
    assert manifest.counts["objects"] == expected.counts["objects"]
    assert objects_by_file(shards) == objects_by_file(tmp_path / "tidy")
    ids = np.concatenate([row.annotation_id for row in all_rows(shards)])
    assert len(set(ids.tolist())) == len(ids)
    assert manifest.counts["renumbered"] == sum(
        source_id is not None for row in all_rows(shards) for source_id in row.source_annotation_id
    )


def test_the_annotations_own_ids_stay_beside_ours(source, shards):
    source.document["annotations"][0]["id"] = "a-1"
    source.write_shards(shards)
    ids = {
        source_id: number
        for row in all_rows(shards)
        for source_id, number in zip(row.source_annotation_id, row.annotation_id, strict=True)
    }
    assert set(ids) == {None, '"a-1"'}


def test_an_annotation_listed_twice_is_kept_once(source, shards):
    source.document["annotations"].append(dict(source.document["annotations"][0]))
    assert source.write_shards(shards).reasons == {"annotation listed twice": 1}


@pytest.mark.parametrize(
    "rename",
    [
        str,
        float,
        lambda number: f"{number:012d}",
        lambda number: f"frame {number}",
        lambda number: {"camera": 1, "frame": number},
        lambda number: 2**64 + number,
    ],
)
def test_images_are_found_by_ids_of_any_type(source, shards, tmp_path, rename):
    source.write_shards(tmp_path / "tidy")
    for image in source.document["images"]:
        image["id"] = rename(image["id"])
    for annotation in source.document["annotations"]:
        annotation["image_id"] = rename(annotation["image_id"])
    manifest = source.write_shards(shards)
    assert not manifest.reasons
    assert objects_by_file(shards) == objects_by_file(tmp_path / "tidy")
    ids = {row.file_name: row.image_id for row in all_rows(shards)}
    assert len(set(ids.values())) == 12
    source.write_shards(tmp_path / "again", rows_per_shard=12)
    assert {row.file_name: row.image_id for row in all_rows(tmp_path / "again")} == ids


def test_references_may_write_a_number_as_a_string(source, shards, tmp_path):
    source.write_shards(tmp_path / "tidy")
    for annotation in source.document["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
        annotation["category_id"] = float(annotation["category_id"])
    assert not source.write_shards(shards).reasons
    assert objects_by_file(shards) == objects_by_file(tmp_path / "tidy")


def test_categories_may_have_ids_that_are_no_numbers(source, shards):
    names = {c["id"]: c["name"] for c in source.document["categories"]}
    for category in source.document["categories"]:
        category["id"] = f"#{category['id']}"
    for annotation in source.document["annotations"]:
        annotation["category_id"] = f"#{annotation['category_id']}"
    manifest = source.write_shards(shards)
    assert [tuple(category) for category in manifest.categories] == list(names.items())


@pytest.mark.parametrize("size", [{}, {"height": 0, "width": 0}, {"height": None, "width": None}])
def test_missing_sizes_are_read_from_the_files(source, shards, size):
    for image in source.document["images"]:
        del image["height"], image["width"]
        image |= size
    assert not source.write_shards(shards).reasons
    assert {row.size for row in all_rows(shards)} == {(48, 48)}


def test_sizes_may_be_written_as_strings_or_floats(source, shards):
    for image in source.document["images"]:
        image |= {"height": "48", "width": 48.0}
    assert not source.write_shards(shards).reasons


@pytest.mark.parametrize(
    "change",
    [
        {"height": -48},
        {"width": "wide"},
        {"width": 2**40},
        {"height": True},
        {"file_name": ""},
        {"file_name": 7},
        {"file_name": "../a.jpg"},
        {"file_name": "a\0b.jpg"},
        {"file_name": "\ud800.jpg"},
        {"file_name": "x" * 300},
        {"id": None},
    ],
)
def test_a_malformed_image_record_is_listed(source, shards, change):
    source.document["images"][0] |= change
    reasons = source.write_shards(shards).reasons
    assert reasons["malformed image record"] == 1
    assert set(reasons) == {"malformed image record", "unknown image id"}


def test_a_folder_in_the_place_of_an_image_is_a_missing_file(source, shards):
    name = source.document["images"][0]["file_name"]
    (source.images / name).unlink()
    (source.images / name).mkdir()
    assert source.write_shards(shards).reasons["missing image file"] == 1


def test_backslashes_separate_folders(source, shards):
    folder = source.images / "Bilder" / "März"
    folder.mkdir(parents=True)
    for image in source.document["images"]:
        (source.images / image["file_name"]).rename(folder / image["file_name"])
        image["file_name"] = f"Bilder\\März\\{image['file_name']}"
    assert not source.write_shards(shards).reasons


def write(source, shards, max_quarantined):
    source.write_shards(shards)
    listing = read_coco(str(source.annotations), str(source.images))
    return write_shards(listing, str(shards) + "-limited", 5, 2, max_quarantined=max_quarantined)


def test_more_refused_records_than_allowed_are_an_error_that_counts_the_reasons(source, shards):
    for annotation in source.document["annotations"][:3]:
        annotation["bbox"] = [90, 90, 5, 5]
    source.document["annotations"][3]["category_id"] = [1]
    listed = len(source.document["annotations"])
    message = rf"4 of {listed} annotations left out: box outside its image \(3\), unknown category"
    with pytest.raises(QuarantineError, match=message):
        write(source, shards, 0.05)
    assert len(quarantine_entries(f"{shards}-limited")) == 4
    assert write(source, shards, 4 / listed).counts["annotations_quarantined"] == 4


def test_images_that_are_refused_count_too(source, shards):
    for image in source.document["images"][:2]:
        image["width"] = 7
    match = r"2 of 12 images .*: image size .* \(2\)\. .*try data\.exif_orientation"
    with pytest.raises(QuarantineError, match=match) as raised:
        write(source, shards, 0.1)
    # Their annotations are left out too, but that is no reason.
    assert "image quarantined" not in str(raised.value)


def test_a_dataset_without_any_object_left_is_an_error_at_any_limit(source, shards):
    for annotation in source.document["annotations"]:
        annotation["category_id"] = 99
    with pytest.raises(QuarantineError, match=r"none of the .* annotations is an object"):
        source.write_shards(shards)


def test_corrections_are_counted_and_listed(source, shards):
    first, second, third = source.document["annotations"][:3]
    first["segmentation"].append([])
    del second["bbox"]
    third["area"] = -1
    manifest = source.write_shards(shards)
    assert not manifest.reasons
    assert manifest.corrected == {
        "polygon part left out": 1,
        "box computed from the mask": 1,
        "area corrected": 1,
    }
    assert "corrected: area corrected (1)" in manifest.summary()
    entries = quarantine_entries(shards)
    assert {entry["annotation_id"] for entry in entries} == {
        x["id"] for x in (first, second, third)
    }
    assert all(entry["corrected"] for entry in entries)
    areas = {a["id"]: a["area"] for a in coco_ground_truth(str(shards))["annotations"]}
    assert min(areas.values()) > 0


def test_what_is_written_can_be_decoded_for_training(source, shards):
    source.document["annotations"][0]["segmentation"].append([1, 2])
    source.write_shards(shards)
    for row in all_rows(shards):
        assert len(sample_from_row(row, with_masks=True).targets) == len(row.labels)
