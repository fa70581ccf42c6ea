import torch

from model.config import BoxHeadConfig
from model.heads.training_rois import append_ground_truth, sample_training_rois
from model.structures import join_targets
from tests.model.heads.rois import random_proposals

CPU = torch.device("cpu")


def test_ground_truth_boxes_follow_the_proposals_of_their_image(scenes, box_targets):
    targets = join_targets([scenes[0], box_targets([], []), scenes[1]], CPU)
    candidates = append_ground_truth(random_proposals([3, 0, 5], rows=5), targets)
    assert candidates.counts.tolist() == [5, 0, 6]
    assert candidates.boxes.shape == (3, 7, 4)
    assert candidates.boxes[0, 3:5].equal(scenes[0].boxes)
    assert candidates.boxes[2, 5].equal(scenes[1].boxes[0])
    assert (candidates.boxes[~candidates.valid()] == 0).all()


def test_the_sampled_rois_of_an_image_do_not_depend_on_the_padding_of_the_batch(scenes):
    settings = BoxHeadConfig(samples_per_image=8)

    def sample_first_image(proposals, targets):
        rois = sample_training_rois(
            proposals, join_targets(targets, CPU), range(len(targets)), settings
        ).without_padding()
        return rois.rois[rois.rois[:, 0] == 0], rois.labels[rois.rois[:, 0] == 0]

    alone = sample_first_image(random_proposals([20], rows=20), scenes[1:])
    in_batch = sample_first_image(random_proposals([20, 44], rows=50), [scenes[1], scenes[0]])
    assert alone[0].equal(in_batch[0])
    assert alone[1].equal(in_batch[1])


def test_positives_are_matched_to_an_object_of_their_own_image(scenes, box_targets):
    images = [scenes[0], box_targets([], []), scenes[1]]
    targets = join_targets(images, CPU)
    # Only ground truth: every positive is its own match.
    proposals = random_proposals([0, 0, 0], rows=0)
    rois = sample_training_rois(proposals, targets, range(3), BoxHeadConfig(samples_per_image=8))
    positive = rois.positive().without_padding()
    assert sorted(positive.matched_gt_indices.tolist()) == [0, 1, 2]
    assert positive.rois[:, 1:].equal(targets.boxes[positive.matched_gt_indices])
    assert positive.gt_boxes.equal(positive.rois[:, 1:])
    assert positive.labels.equal(targets.labels[positive.matched_gt_indices])
    image = (positive.matched_gt_indices >= 2).float() * 2
    assert positive.rois[:, 0].equal(image)
