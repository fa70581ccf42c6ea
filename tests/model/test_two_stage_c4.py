"""Detectors on C4: the box head is res5, and the mask head reads its maps."""

import pytest
import torch

from model import build_detector
from model.heads import roi_heads as roi_heads_module
from tests.model.architectures import NARROW, architecture_config


@pytest.fixture
def build_c4(tiny_config):
    return lambda **changes: build_detector(architecture_config(tiny_config, "c4", **changes))


def test_the_mask_head_reads_the_maps_of_the_box_head(build_c4, scenes, make_batch, monkeypatch):
    detector = build_c4()
    heads, mask_inputs, sampled = detector.roi_heads, [], []
    sample = roi_heads_module.sample_training_rois
    monkeypatch.setattr(
        roi_heads_module,
        "sample_training_rois",
        lambda *arguments: sampled.append(sample(*arguments)) or sampled[0],
    )
    heads.mask.register_forward_pre_hook(lambda _, arguments: mask_inputs.append(arguments))
    res5_calls = []
    heads.box.res5.register_forward_hook(lambda *_: res5_calls.append(1))
    batch = make_batch(scenes)
    detector(batch, scenes)
    assert len(res5_calls) == 1
    (maps, labels) = mask_inputs[0]
    positive = sampled[0].without_padding().positive()
    expected = heads.box.extract(heads.box_pooler(detector.features(batch), positive.rois))
    assert len(labels) > 1
    assert labels.equal(positive.labels)
    # Group norm normalizes each ROI alone: equal up to the order of sums.
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_rois_in_chunks_have_the_predictions_of_all_at_once(
    build_c4, scenes, make_batch, monkeypatch
):
    detector = build_c4().eval()
    features = detector.features(make_batch(scenes))
    rois = torch.tensor([[0.0, 2, 3, 40, 50], [1, 5, 5, 60, 30], [0, 9, 9, 30, 30]])
    whole = detector.roi_heads._predict_boxes(features, rois)
    monkeypatch.setattr(roi_heads_module, "ROIS_PER_CHUNK", 2)
    chunked = detector.roi_heads._predict_boxes(features, rois)
    for result, expected in zip(chunked, whole, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stages", [4, 5])
def test_frozen_stages_count_res5_in_the_box_head(stages, build_c4, scenes, make_batch):
    backbone = NARROW | {"features": "c4", "norm": "batch_norm", "frozen_stages": stages}
    detector = build_c4(backbone=backbone).train()
    res5 = detector.roi_heads.box.res5
    trains = stages < 5
    assert {p.requires_grad for p in res5.parameters()} == {trains}
    before = res5[0].bn1.running_mean.clone()
    detector(make_batch(scenes), scenes)
    assert (not res5[0].bn1.running_mean.equal(before)) == trains
    assert not any(p.requires_grad for p in detector.backbone.parameters())
