"""The per-image table keeps every match, and names what is wrong with a damaged one."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.evaluate.average_precision import precision_table
from pipeline.evaluate.coco_metrics import coco_metrics
from pipeline.evaluate.image_matches import match_images
from pipeline.evaluate.image_summary import summarize_images
from pipeline.evaluate.image_table import (
    ImageTable,
    TableOrigin,
    read_image_table,
    write_image_table,
)
from pipeline.evaluate.paired_bootstrap import DifferentDataError
from pipeline.evaluate.table_comparison import compare_tables
from tests.pipeline.evaluate.test_coco_metrics import random_case

ORIGIN = TableOrigin(
    weights="models:/shapes/3",
    model_digest="a" * 64,
    shards="s3://bucket/val",
    dataset_digest="d" * 64,
    categories={3: "cat", 7: "dog", 90: "bird"},
    max_detections=100,
    score_threshold=0.5,
)


def table_of(gt, results):
    matches = {}
    coco_metrics(gt, results, inspect=lambda kind, run: matches.update({kind: match_images(run)}))
    images = gt["images"]
    ids = np.array([image["id"] for image in images])
    names = tuple(image["file_name"] for image in images)
    return ImageTable(ORIGIN, ids, names, {2: "cannot be decoded"}, matches)


@pytest.fixture
def table():
    return table_of(*random_case(seed=4, images=8))


def test_a_table_is_read_as_it_was_written(table, tmp_path):
    url = str(tmp_path / "images.parquet")
    write_image_table(url, table)
    read = read_image_table(url)
    assert (read.origin, read.file_names, read.errors) == (
        table.origin,
        table.file_names,
        table.errors,
    )
    for kind, matches in table.matches.items():
        for name, values in vars(matches).items():
            assert np.array_equal(getattr(read.matches[kind], name), values), name
        before, after = precision_table(matches), precision_table(read.matches[kind])
        assert np.array_equal(before, after)


def test_the_columns_can_be_read_without_this_program(table, tmp_path):
    write_image_table(str(tmp_path / "images.parquet"), table)
    frame = pq.read_table(tmp_path / "images.parquet").to_pandas()
    assert frame["file_name"].tolist() == list(table.file_names)
    assert frame["error"].notna().tolist() == [n == 2 for n in range(8)]
    assert set(frame["weights"]) == {"models:/shapes/3"}
    assert (frame["bbox/matched"] + frame["bbox/missed"] == frame["bbox/objects"]).all()
    assert [len(each) for each in frame["segm/object_classes"]] == frame["segm/objects"].tolist()
    assert set(np.concatenate(frame["segm/classes"])) <= {3, 7, 90}
    assert frame["bbox/score"].isna().tolist() == (frame["bbox/objects"] == 0).tolist()


def test_the_counts_and_the_score_of_an_image():
    """Two objects: one found, one missed; a confident false positive and one that is not."""
    box, elsewhere = [10, 10, 20, 20], [90, 90, 20, 20]
    gt, _ = random_case(seed=0, images=2)
    objects = [[10, 10, 20, 20], [50, 50, 20, 20]]
    gt["annotations"] = [
        {"id": n, "image_id": 100, "category_id": 3, "bbox": each, "area": 400, "iscrowd": 0}
        for n, each in enumerate(objects)
    ]
    detections = [(100, 3, box, 0.9), (100, 7, elsewhere, 0.8), (101, 3, box, 0.4)]
    results = [
        {"image_id": image, "category_id": label, "bbox": each, "score": score}
        for image, label, each, score in detections
    ]
    matches = {}
    coco_metrics(
        gt,
        results,
        kinds=("bbox",),
        inspect=lambda kind, run: matches.update({kind: match_images(run)}),
    )
    summary = summarize_images(matches["bbox"], score_threshold=0.5)
    assert summary.objects.tolist() == [2, 0]
    assert summary.matched.tolist() == [1, 0]
    assert summary.missed.tolist() == [1, 0]
    assert summary.false_positives.tolist() == [1, 0]
    # Precision 1 at the recalls 0, 0.01, ..., 0.5, and 0 beyond.
    assert summary.score[0] == pytest.approx(51 / 101)
    assert np.isnan(summary.score[1])


def test_a_damaged_table_is_named_with_the_way_out(table, tmp_path):
    url = str(tmp_path / "images.parquet")
    write_image_table(url, table)
    whole = (tmp_path / "images.parquet").read_bytes()
    for damaged in (whole[:100], whole[: len(whole) // 2], b"", b"PAR1 and more PAR1"):
        (tmp_path / "images.parquet").write_bytes(damaged)
        with pytest.raises(storage.DamagedRecordError, match=r"images\.parquet.*evaluate again"):
            read_image_table(url)
    write_image_table(url, replace(table, origin=replace(ORIGIN, version=99)))
    with pytest.raises(storage.DamagedRecordError, match="version 99"):
        read_image_table(url)
    write_image_table(url, table)
    edited = pq.read_table(url)
    pq.write_table(edited.drop_columns(["bbox/scores", "segm/classes"]), url)
    with pytest.raises(storage.DamagedRecordError, match="edited"):
        read_image_table(url)
    pq.write_table(edited.replace_schema_metadata({}), url)
    with pytest.raises(storage.DamagedRecordError, match="not a complete table"):
        read_image_table(url)


def test_only_evaluations_of_the_same_data_are_compared(table):
    other = table_of(*random_case(seed=4, images=8, noise=20.0))
    comparison = compare_tables(table, other, "segm/AP", resamples=40)
    assert comparison.overall.difference < 0
    assert set(comparison.per_class) <= {3, 7, 90}
    moved = replace(other, origin=replace(ORIGIN, dataset_digest="e" * 64))
    with pytest.raises(DifferentDataError, match=r"another dataset digest \(ddd.*eee"):
        compare_tables(table, moved, "segm/AP")
    limited = replace(other, origin=replace(ORIGIN, max_detections=10))
    with pytest.raises(DifferentDataError, match=r"evaluate\.max_detections \(100 and 10\)"):
        compare_tables(table, limited, "segm/AP")
    with pytest.raises(ValueError, match=r"segm/APs has no per-image records"):
        compare_tables(table, other, "segm/APs")
    boxes = replace(other, matches={"bbox": other.matches["bbox"]})
    with pytest.raises(ValueError, match="has no segm metrics, only bbox"):
        compare_tables(table, boxes, "segm/AP")


def test_classes_that_only_one_detector_knows_do_not_prevent_a_comparison(table):
    """A detector may have classes that the dataset lacks; they have no objects."""
    more = {**ORIGIN.categories, 1: "ant"}
    classes = np.array([1, 3, 7, 90])
    matches = {
        kind: replace(
            each,
            class_ids=classes,
            classes=each.classes + 1,
            object_classes=each.object_classes + 1,
        )
        for kind, each in table.matches.items()
    }
    other = replace(table, origin=replace(ORIGIN, categories=more), matches=matches)
    overall = compare_tables(table, other, "bbox/AP", resamples=10).overall
    assert (overall.difference, overall.low, overall.high) == (0, 0, 0)
