import torch

from model.boxes.matching import match_to_targets
from model.structures import Targets, join_targets
from ops_cuda import IGNORED, NEGATIVE, POSITIVE

CPU = torch.device("cpu")


def objects(*boxes):
    return Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.ones(len(boxes), dtype=torch.int64),
    )


def test_each_image_is_matched_to_its_own_objects():
    images = [objects([0, 0, 10, 10], [20, 20, 40, 40]), objects(), objects([21, 20, 41, 40])]
    anchors = torch.tensor([[[20.0, 20, 40, 40], [0, 0, 10, 10]]])
    matches = match_to_targets(anchors, join_targets(images, CPU), 0.7, 0.3)
    # Rows of the batch: image 0 has 0 and 1, image 1 none, image 2 has 2.
    assert matches.gt_indices.tolist() == [[1, 0], [2, 2], [2, 2]]
    assert matches.labels.tolist() == [
        [POSITIVE, POSITIVE],
        [NEGATIVE, NEGATIVE],
        [POSITIVE, NEGATIVE],
    ]


def test_candidates_between_the_thresholds_are_ignored_unless_they_are_low_quality_matches():
    targets = join_targets([objects([0, 0, 10, 10])], CPU)
    anchors = torch.tensor([[[0.0, 0, 10, 5], [0, 0, 10, 4], [0, 0, 10, 2]]])  # IoU 0.5, 0.4, 0.2
    matches = match_to_targets(anchors, targets, 0.7, 0.3)
    assert matches.labels.tolist() == [[IGNORED, IGNORED, NEGATIVE]]
    matches = match_to_targets(anchors, targets, 0.7, 0.3, allow_low_quality=True)
    assert matches.labels.tolist() == [[POSITIVE, IGNORED, NEGATIVE]]


def test_a_batch_without_objects_is_all_negative_and_matched_to_the_zero_row():
    targets = join_targets([objects(), objects()], CPU)
    matches = match_to_targets(torch.rand(2, 7, 4), targets, 0.7, 0.3, allow_low_quality=True)
    assert matches.labels.tolist() == [[NEGATIVE] * 7] * 2
    assert matches.gt_indices.tolist() == [[0] * 7] * 2
