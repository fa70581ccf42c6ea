"""The metadata of an exported detector depends on its heads and conventions."""

import json

from model.export.metadata import export_metadata
from tests.model.export.detector_kinds import KINDS


def test_a_proposal_network_has_no_categories(make_detector):
    metadata = json.loads(export_metadata(make_detector(**KINDS["proposals"])))
    assert metadata["categories"] is None
    assert metadata["mask_threshold"] is metadata["mask_paste"] is None
    assert metadata["keypoints"] is metadata["keypoint_origin"] is None


def test_conventions_of_boxes_masks_and_keypoints_are_recorded(make_detector):
    metadata = json.loads(export_metadata(make_detector(**KINDS["legacy_geometry"])))
    assert metadata["keypoints"] == ["a", "b", "c"]
    assert (metadata["box_end"], metadata["mask_paste"]) == (1.0, "inclusive")
    assert metadata["keypoint_origin"] == 0.5


def test_the_keys_of_files_already_written_stay(mask_detector):
    assert json.loads(export_metadata(mask_detector)) == {
        "categories": [{"id": i, "name": f"class_{i}"} for i in range(1, 6)],
        "short_side": 96,
        "long_side": 160,
        "resize_rounding": "nearest",
        "resize_filter": "antialias",
        "box_end": 0.0,
        "mask_threshold": 0.5,
        "mask_paste": "padded",
        "keypoint_origin": None,
        "keypoints": None,
    }
