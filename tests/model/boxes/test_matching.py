import torch

from model.boxes.matching import match_to_objects
from model.structures import Targets
from model.structures.batch_targets import join_truths
from ops_cuda import NEGATIVE, POSITIVE

CPU = torch.device("cpu")


def objects(*boxes):
    return Targets(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.ones(len(boxes), dtype=torch.int64),
    )


def test_each_image_is_matched_to_its_own_objects():
    targets = [objects([0, 0, 10, 10], [20, 20, 40, 40]), objects(), objects([21, 20, 41, 40])]
    anchors = torch.tensor([[[20.0, 20, 40, 40], [0, 0, 10, 10]]])
    matches = match_to_objects(anchors, join_truths(targets, CPU), 0.7, 0.3)
    assert matches.truth.tolist() == [[1, 0], [0, 0], [0, 0]]
    assert matches.verdict.tolist() == [
        [POSITIVE, POSITIVE],
        [NEGATIVE, NEGATIVE],
        [POSITIVE, NEGATIVE],
    ]


def test_a_batch_without_objects_is_negative():
    truths = join_truths([objects(), objects()], CPU)
    matches = match_to_objects(torch.rand(2, 7, 4), truths, 0.7, 0.3, keep_best=True)
    assert matches.verdict.tolist() == [[NEGATIVE] * 7] * 2
    assert matches.truth.tolist() == [[0] * 7] * 2
