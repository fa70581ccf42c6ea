"""A region proposal network as a detector: every proposal is a detection of class 1."""

import pytest
import torch

from model import build_detector
from model.boxes.selection import Candidates
from tests.model.detector_kinds import KINDS, RPN_LOSSES
from tests.model.training import total_loss


@pytest.fixture
def network(tiny_config):
    torch.manual_seed(0)
    return build_detector(tiny_config(**KINDS["proposal_network"].settings)).eval()


@torch.no_grad()
def test_detections_are_the_proposals(network, scenes, make_batch):
    batch = make_batch(scenes)
    features = network.features(batch)
    proposals = network.rpn(features, batch)
    selected = network.detect(features, batch)
    assert selected.counts == proposals.counts.tolist()
    assert selected.labels.eq(1).all()
    valid = proposals.valid()
    assert selected.boxes.equal(proposals.boxes[valid])
    assert selected.scores.equal(proposals.logits[valid].sigmoid())


@torch.no_grad()
def test_candidates_of_all_levels_go_through_nms_together(network, scenes, make_batch):
    batch = make_batch(scenes[:1])
    box = torch.tensor([10.0, 10, 40, 40])
    candidates = Candidates(
        torch.stack((box, box + 1, box + 20)),
        torch.tensor([0.9, 0.8, 0.7]),
        torch.zeros(3, dtype=torch.int64),
        torch.ones(3, dtype=torch.int64),
    )
    selected = network.select(candidates, batch)
    torch.testing.assert_close(selected.scores, torch.tensor([0.9, 0.7]))
    rpn = network.config.rpn.model_copy(update={"post_nms_test": 1})
    network.config = network.config.model_copy(update={"rpn": rpn})
    assert network.select(candidates, batch).counts == [1]


@pytest.mark.parametrize("empty_images", [0, 1, 2])
def test_every_parameter_has_a_gradient_even_without_objects(
    network, scenes, box_targets, make_batch, empty_images
):
    targets = [box_targets([], [])] * empty_images + scenes[: 2 - empty_images]
    terms = network.train()(make_batch(targets), targets)
    assert terms.keys() == RPN_LOSSES
    total_loss(terms).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
