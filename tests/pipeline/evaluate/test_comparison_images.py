"""Comparison images show ground truth and predictions at the same positions."""

import numpy as np

from model.images.decode import decode_image
from pipeline.evaluate.comparison_images import draw_comparisons
from pipeline.infer.detection_files import write_detection_rows
from pipeline.infer.detection_rows import detection_row
from pipeline.infer.detection_stream import ImagePrediction
from pipeline.infer.input_image import InputImage
from pipeline.infer.inputs import plan_shards
from pipeline.infer.ledger import output_url
from pipeline.shards.manifest import read_manifest
from tests.pipeline.oracle import oracle, perfect_detections, read_all_rows


def test_comparisons_show_the_keypoints_of_both_sides(shapes_keypoint_shards, tmp_path):
    detector, manifest = oracle(shapes_keypoint_shards), read_manifest(shapes_keypoint_shards)
    chunks = plan_shards(shapes_keypoint_shards)
    all_rows = read_all_rows(shapes_keypoint_shards)
    rows = iter(all_rows)
    for chunk in chunks:
        predicted = [
            detection_row(
                ImagePrediction(
                    InputImage(row.image_id, row.file_name, b""), perfect_detections(row)
                ),
                detector,
                score_threshold=0.0,
            )
            for row in (next(rows) for _ in range(chunk.images))
        ]
        write_detection_rows(output_url(str(tmp_path), chunk.name), predicted)
    [first] = draw_comparisons(chunks, manifest, str(tmp_path), str(tmp_path / "drawn"), 1)
    sheet = decode_image((tmp_path / "drawn" / first.rpartition("/")[2]).read_bytes())
    # 64 px are enlarged fivefold; the title takes 24 px, the gap 8 px.
    left, right = sheet[24:, :320], sheet[24:, 328:]
    for keypoints in all_rows[0].keypoints:
        for x, y, _ in keypoints:
            column, row = (min(319, round(5 * v)) for v in (x, y))
            patch = np.s_[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            outline = [(image[patch] == 0).all(2).sum() for image in (left, right)]
            assert min(outline) > 0
