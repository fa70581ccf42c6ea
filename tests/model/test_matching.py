import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from model.matching import IGNORED, NEGATIVE, POSITIVE, match_boxes

TRUTHS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 40.0]])


def random_boxes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    return torch.cat((corner, corner + 5 + torch.rand(count, 2, generator=generator) * 40), 1)


@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_matches_agree_with_torchvision(seed, keep_best):
    candidates, truths = random_boxes(300, seed), random_boxes(6, seed + 100)
    ours = match_boxes(candidates, truths, 0.6, 0.3, keep_best)
    theirs = Matcher(0.6, 0.3, allow_low_quality_matches=keep_best)(box_iou(truths, candidates))
    assert torch.equal(ours.verdict == POSITIVE, theirs >= 0)
    assert torch.equal(ours.verdict == NEGATIVE, theirs == Matcher.BELOW_LOW_THRESHOLD)
    assert torch.equal(ours.verdict == IGNORED, theirs == Matcher.BETWEEN_THRESHOLDS)
    positive = theirs >= 0
    assert torch.equal(ours.truth[positive], theirs[positive])


def test_thresholds_are_inclusive_above():
    # Overlaps 0.5 and 0.25 with the first truth, exactly representable.
    candidates = torch.tensor([[0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 5.0, 5.0]])
    match = match_boxes(candidates, TRUTHS[:1], positive_iou=0.5, negative_iou=0.25)
    assert match.verdict.tolist() == [POSITIVE, IGNORED]


def test_without_objects_everything_is_negative():
    match = match_boxes(random_boxes(7, 0), torch.zeros(0, 4), 0.7, 0.3, keep_best=True)
    assert match.verdict.tolist() == [NEGATIVE] * 7
    assert match.truth.tolist() == [0] * 7


def test_each_object_keeps_its_best_candidate_and_an_unreachable_one_claims_nobody():
    candidates = torch.tensor([[0.0, 0.0, 4.0, 4.0], [50.0, 50.0, 60.0, 60.0]])
    match = match_boxes(candidates, TRUTHS, 0.7, 0.3, keep_best=True)
    assert match.verdict.tolist() == [POSITIVE, NEGATIVE]
