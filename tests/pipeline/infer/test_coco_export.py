"""All detections of a folder as one list that pycocotools reads."""

import json

from pycocotools.coco import COCO

from pipeline.infer.coco_export import delete_coco_files, write_coco_files
from pipeline.infer.detection_files import write_detection_rows
from pipeline.infer.detection_rows import DetectionRow, coco_results

ROWS = [
    DetectionRow(
        image_id=7,
        file_name="ü b.jpg",
        height=20,
        width=30,
        boxes=[[1.5, 2.0, 11.5, 12.0], [0.0, 0.0, 3.0, 4.0]],
        scores=[0.75, 0.25],
        labels=[2, 1],
        category_ids=[20, 10],
        category_names=["b", "a"],
        masks_rle=[{"size": [20, 30], "counts": "0d`0`4"}] * 2,
        error=None,
    ),
    DetectionRow(8, "broken.jpg", None, None, [], [], [], [], [], None, "cannot be decoded"),
    DetectionRow(9, "none.jpg", 5, 6, [], [], [], [], [], [], None, source_image_id='"x9"'),
]


def write(tmp_path, *files):
    urls = [str(tmp_path / f"part-{number:05d}.parquet") for number in range(len(files))]
    for url, rows in zip(urls, files, strict=True):
        write_detection_rows(url, rows)
    write_coco_files(str(tmp_path), urls)
    names = ("coco_results.json", "coco_images.json")
    return [json.loads((tmp_path / name).read_text()) for name in names]


def test_pycocotools_reads_the_detections_of_all_files(tmp_path):
    results, images = write(tmp_path, ROWS[:2], ROWS[2:])
    assert results == [result for row in ROWS for result in coco_results(row)]
    assert images == [
        {"id": 7, "file_name": "ü b.jpg", "height": 20, "width": 30},
        {"id": 8, "file_name": "broken.jpg", "error": "cannot be decoded"},
        {"id": 9, "file_name": "none.jpg", "height": 5, "width": 6, "source_id": '"x9"'},
    ]
    ground_truth = COCO()
    ground_truth.dataset = {
        "images": images,
        "annotations": [],
        "categories": [{"id": 10, "name": "a"}, {"id": 20, "name": "b"}],
    }
    ground_truth.createIndex()
    loaded = ground_truth.loadRes(str(tmp_path / "coco_results.json"))
    found = loaded.loadAnns(loaded.getAnnIds(imgIds=[7]))
    assert [each["category_id"] for each in found] == [20, 10]
    assert [each["score"] for each in found] == [0.75, 0.25]
    assert found[0]["bbox"] == [1.5, 2.0, 10.0, 10.0]


def test_a_folder_without_detections_gives_empty_lists(tmp_path):
    assert write(tmp_path) == [[], []]
    assert write(tmp_path, ROWS[1:2])[0] == []
    delete_coco_files(str(tmp_path))
    assert [path.suffix for path in tmp_path.iterdir()] == [".parquet"]
