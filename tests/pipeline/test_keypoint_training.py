"""A tiny Keypoint R-CNN learns from the batches of the training stream."""

import torch

from pipeline.stream.training_stream import open_local_stream


def test_keypoints_are_learned_from_the_training_stream(
    tiny_keypoint_config, shapes_keypoint_shards, tiny_keypoint_detector
):
    detector = tiny_keypoint_detector
    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-3)
    with open_local_stream(tiny_keypoint_config, shapes_keypoint_shards, 0, 1, 0, 1) as stream:
        batch = next(stream)
    labeled = int(batch.targets.keypoints[..., 2].count_nonzero())
    losses = []
    for _ in range(15):
        term = detector.train()(batch.images, batch.targets)["keypoint"]
        # Ground-truth boxes are proposals too, and contain all keypoints of their objects.
        assert int(term.count) >= labeled
        loss = term.total / term.count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # The same batch in every step; a uniform guess among 56 x 56 cells has a loss of 8.05.
    assert losses[0] > 7.5
    assert losses[-1] < 7.0, losses
