"""Rows of prediction files are read as they were written, keypoints included."""

import numpy as np
import pytest

from pipeline.evaluate.coco_metrics import coco_metrics
from pipeline.infer.detection_files import read_detection_rows, write_detection_rows
from pipeline.infer.detection_rows import coco_results, detection_row
from pipeline.infer.detection_stream import ImagePrediction
from pipeline.infer.input_image import InputImage
from pipeline.ingest.shapes import SHAPE_KEYPOINTS
from pipeline.shards.coco_ground_truth import coco_ground_truth
from tests.pipeline.oracle import oracle, perfect_detections, read_all_rows


def test_rows_keep_keypoints_their_names_and_their_coco_results(shapes_keypoint_shards, tmp_path):
    detector = oracle(shapes_keypoint_shards)
    rows = [
        detection_row(
            ImagePrediction(InputImage(row.image_id, row.file_name, b""), perfect_detections(row)),
            detector,
            score_threshold=0.0,
        )
        for row in read_all_rows(shapes_keypoint_shards)
    ]
    image = InputImage(99, "broken.jpg", b"", source_id='"frame 1"')
    unreadable = ImagePrediction(image, None, "reason")
    rows.append(detection_row(unreadable, detector, 0.0))
    write_detection_rows(str(tmp_path / "p.parquet"), rows)
    read = read_detection_rows(str(tmp_path / "p.parquet"))
    assert read == rows
    assert (read[-1].keypoints, read[-1].keypoint_names) == (None, None)
    assert (read[-1].source_image_id, read[0].source_image_id) == ('"frame 1"', None)
    assert read[0].keypoint_names == list(SHAPE_KEYPOINTS)
    assert np.shape(read[0].keypoints) == (len(read[0].scores), 4, 3)
    assert set(np.array(read[0].keypoints)[..., 2].ravel()) == {5.0}
    results = [result for row in read for result in coco_results(row)]
    metrics = coco_metrics(coco_ground_truth(shapes_keypoint_shards), results, ["keypoints"])
    assert metrics.values["keypoints/AP"] == pytest.approx(1.0)
