import pytest
import torch

from model import Category, build_detector
from model.boxes.coding import BoxCoder
from model.config import BoxHeadConfig, RpnConfig
from model.heads import roi_heads as roi_heads_module
from model.heads.box import box_losses
from model.heads.keypoint import keypoint_loss, keypoint_targets
from model.heads.mask import mask_loss
from model.heads.training_rois import sample_training_rois
from model.layers.patches import gather_from_levels
from model.rpn.loss import rpn_losses
from model.structures import join_targets
from tests.model.heads.rois import random_proposals
from tests.model.training import total_loss
from tests.ops_cuda.forbid_sync import ForbidSync

CPU = torch.device("cpu")


def losses_and_gradients(detector, batch, targets):
    detector.zero_grad()
    terms = detector(batch, targets)
    total_loss(terms).backward()
    return terms, {name: p.grad.clone() for name, p in detector.named_parameters()}


@pytest.mark.parametrize("step", [1, 3, 32])
@pytest.mark.parametrize("empty_images", [0, 1])
def test_padding_changes_neither_losses_nor_gradients(
    full_detector, scenes, box_targets, with_keypoints, make_batch, monkeypatch, empty_images, step
):
    targets = [with_keypoints(t) for t in [box_targets([], [])] * empty_images + scenes]
    batch = make_batch(targets)
    expected, expected_gradients = losses_and_gradients(full_detector, batch, targets)
    assert expected["keypoint"].count > 0
    monkeypatch.setattr(roi_heads_module, "_syncs_are_free", lambda device: False)
    monkeypatch.setattr(roi_heads_module, "POSITIVES_STEP", step)
    padded, gradients = losses_and_gradients(full_detector, batch, targets)
    for name, term in padded.items():
        # The same numbers summed in another order, fp32.
        torch.testing.assert_close(term.total, expected[name].total, rtol=1e-5, atol=1e-6)
        assert term.count == expected[name].count
    for name, gradient in gradients.items():
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-6)


def test_the_mask_head_gets_few_more_rois_than_there_are_positives(
    full_detector, scenes, with_keypoints, make_batch, monkeypatch
):
    monkeypatch.setattr(roi_heads_module, "_syncs_are_free", lambda device: False)
    monkeypatch.setattr(roi_heads_module, "POSITIVES_STEP", 2)
    targets = [with_keypoints(target) for target in scenes]
    sizes = []
    full_detector.roi_heads.mask.register_forward_pre_hook(
        lambda _, arguments: sizes.append(len(arguments[0]))
    )
    batch = make_batch(targets)
    with ForbidSync():
        terms = full_detector(batch, targets)
    positives = int(terms["mask"].count)
    assert 0 < positives <= sizes[0] <= positives + 1
    settings = full_detector.roi_heads.settings
    slots = len(scenes) * settings.samples_per_image * settings.positive_fraction
    assert sizes[0] < slots


def test_losses_from_proposals_and_their_gradients_need_no_sync(
    scenes, box_targets, with_keypoints
):
    images = [with_keypoints(target) for target in (*scenes, box_targets([], []))]
    settings = BoxHeadConfig(samples_per_image=16)
    targets = join_targets(images, CPU, num_keypoints=3)
    proposals = random_proposals([20, 9, 2], rows=20)
    coder, generator = BoxCoder(), torch.Generator().manual_seed(0)
    levels = [torch.randn(3, size, generator=generator) for size in (300, 40)]
    deltas = [torch.randn(3, size, 4, generator=generator) for size in (300, 40)]
    anchors = random_proposals([340], rows=340).boxes[0]
    heatmaps, class_logits = torch.randn(12, 3, 8, 8), torch.randn(48, 4)
    box_deltas, mask_logits = torch.randn(48, 4, 4), torch.randn(12, 7, 7)
    leaves = [*levels, *deltas, heatmaps, class_logits, box_deltas, mask_logits]
    for leaf in leaves:
        leaf.requires_grad_()

    def predict(sampled):
        return gather_from_levels(levels, sampled), gather_from_levels(deltas, sampled)

    with ForbidSync():
        terms = rpn_losses(predict, anchors, targets, range(3), RpnConfig(), coder, 1 / 9)
        rois = sample_training_rois(proposals, targets, range(3), settings)
        positive = rois.positive()
        terms |= box_losses(class_logits, box_deltas, rois, coder, 1.0)
        terms["mask"] = mask_loss(mask_logits, torch.zeros(12, 7, 7), positive.valid)
        cells = keypoint_targets(targets.keypoints, positive, 8, torch.zeros(3, 2))
        terms["keypoint"] = keypoint_loss(heatmaps, cells)
        total_loss(terms).backward()
    assert rois.rois.shape == (48, 5)
    assert positive.rois.shape == (12, 5)
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    with pytest.raises(AssertionError, match="nonzero syncs"), ForbidSync():
        rois.without_padding()


def test_the_classification_loss_weighs_objects_by_their_class(scenes, box_targets):
    targets = join_targets([*scenes, box_targets([], [])], CPU)
    proposals = random_proposals([20, 9, 2], rows=20)
    rois = sample_training_rois(proposals, targets, range(3), BoxHeadConfig(samples_per_image=16))
    logits, deltas = torch.randn(48, 4), torch.zeros(48, 4, 4)
    weights = torch.tensor([1.0, 1.0, 5.0, 0.5])
    plain, weighted = (
        box_losses(logits, deltas, rois, BoxCoder(), 1.0, given)["box_class"]
        for given in (None, weights)
    )
    each = -logits.log_softmax(dim=1)[range(48), rois.labels] * rois.valid
    assert {1, 2} <= set(rois.labels.tolist())
    torch.testing.assert_close(plain.total, each.sum())
    torch.testing.assert_close(weighted.total, (each * weights[rois.labels]).sum())
    assert weighted.count == plain.count


def test_class_weights_are_found_by_name_and_are_no_parameters(tiny_config):
    plain_config = tiny_config()
    box = plain_config.box.model_copy(update={"class_weights": {"nut": 3.0, "elsewhere": 9.0}})
    names = ["bolt", "nut", *map(str, range(plain_config.num_classes - 2))]
    categories = [Category(10 * n, name) for n, name in enumerate(names)]
    plain = build_detector(plain_config, categories)
    weighted = build_detector(plain_config.model_copy(update={"box": box}), categories)
    assert plain.roi_heads.class_weights is None
    assert weighted.roi_heads.class_weights.tolist() == [1, 1, 3, *[1] * (len(names) - 2)]
    weighted.load_state_dict(plain.state_dict())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_losses_of_the_roi_heads_and_their_gradients_need_no_sync_on_the_gpu(
    full_detector, scenes, with_keypoints, make_batch
):
    device = torch.device("cuda")
    detector, batch = full_detector.to(device), make_batch(scenes).to(device)
    targets = [with_keypoints(target).to(device) for target in scenes]
    features = detector.features(batch)
    detector(batch, targets)  # the first pass loads kernels
    joined = join_targets(targets, device, with_masks=True, num_keypoints=3)
    proposals, _ = detector.rpn.losses(features, batch, joined)
    torch.cuda.set_sync_debug_mode("error")
    try:
        joined = join_targets(targets, device, with_masks=True, num_keypoints=3)
        terms = detector.roi_heads.losses(features, proposals, batch, joined)
        total_loss(terms).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
