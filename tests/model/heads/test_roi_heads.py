"""ROIs in slots, some of which mean nothing: the same losses, and nothing waits for the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from model.boxes.coding import BoxCoder
from model.config import BoxHeadConfig, RpnConfig
from model.heads import roi_heads as roi_heads_module
from model.heads.box import box_losses
from model.heads.keypoint import keypoint_loss, keypoint_targets
from model.heads.mask import mask_loss
from model.heads.training_rois import add_objects, choose_training_rois
from model.rpn.loss import gather_from_levels, rpn_losses
from model.structures import Proposals
from model.structures.batch_targets import join_truths

CPU = torch.device("cpu")
WAITING = {"nonzero", "_local_scalar_dense", "item", "masked_select", "unique", "_unique2", "equal"}


class NothingWaits(TorchDispatchMode):
    """Raises where a GPU's host would have to wait for a value or a size."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        masks = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITING or masks:
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **(kwargs or {}))


def losses_and_gradients(detector, batch, targets):
    detector.zero_grad()
    terms = detector(batch, targets)
    sum(term.total / term.count.clamp(min=1) for term in terms.values()).backward()
    return terms, {name: p.grad.clone() for name, p in detector.named_parameters()}


@pytest.mark.parametrize("empty", [0, 1])
def test_slots_lose_what_compacted_rois_lose(
    full_detector, scenes, box_targets, with_keypoints, batch_of, monkeypatch, empty
):
    targets = [with_keypoints(target) for target in [box_targets([], [])] * empty + scenes]
    batch = batch_of(targets)
    expected, gradients = losses_and_gradients(full_detector, batch, targets)
    assert expected["keypoint"].count > 0
    monkeypatch.setattr(roi_heads_module, "_waiting_is_free", lambda device: False)
    found, slot_gradients = losses_and_gradients(full_detector, batch, targets)
    for name, term in found.items():
        # The same numbers summed in another order, fp32.
        torch.testing.assert_close(term.total, expected[name].total, rtol=1e-5, atol=1e-6)
        assert term.count == expected[name].count
    for name, gradient in slot_gradients.items():
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-4, atol=1e-6)


def proposals_of(counts, rows):
    boxes = torch.zeros(len(counts), rows, 4)
    for image, count in enumerate(counts):
        corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(image)) * 40
        boxes[image, :count] = torch.cat((corners, corners + 12), 1)
    return Proposals(boxes, torch.tensor(counts))


def test_true_boxes_follow_an_image_s_own_proposals(scenes, box_targets):
    truths = join_truths([scenes[0], box_targets([], []), scenes[1]], CPU)
    joined = add_objects(proposals_of([3, 0, 5], rows=5), truths)
    assert joined.counts.tolist() == [5, 0, 6]
    assert joined.boxes.shape == (3, 7, 4)
    assert joined.boxes[0, 3:5].equal(scenes[0].boxes)
    assert joined.boxes[2, 5].equal(scenes[1].boxes[0])
    assert (joined.boxes[~joined.present()] == 0).all()


def test_the_choice_does_not_depend_on_the_rows_of_the_batch(scenes):
    settings = BoxHeadConfig(samples_per_image=8)

    def chosen(proposals, targets):
        rois = choose_training_rois(
            proposals, join_truths(targets, CPU), range(len(targets)), settings
        ).compact()
        return rois.rois[rois.rois[:, 0] == 0], rois.labels[rois.rois[:, 0] == 0]

    alone = chosen(proposals_of([20], rows=20), scenes[1:])
    beside = chosen(proposals_of([20, 44], rows=50), [scenes[1], scenes[0]])
    assert alone[0].equal(beside[0])
    assert alone[1].equal(beside[1])


def test_nothing_waits_between_proposals_and_losses(scenes, box_targets, with_keypoints):
    targets = [with_keypoints(target) for target in (*scenes, box_targets([], []))]
    settings = BoxHeadConfig(samples_per_image=16)
    truths, proposals = join_truths(targets, CPU), proposals_of([20, 9, 2], rows=20)
    coder, generator = BoxCoder(), torch.Generator().manual_seed(0)
    levels = [torch.randn(3, size, generator=generator) for size in (300, 40)]
    deltas = [torch.randn(3, size, 4, generator=generator) for size in (300, 40)]
    anchors = proposals_of([340], rows=340).boxes[0]
    leaves = [*levels, *deltas, torch.randn(48, 4), torch.randn(48, 4, 4), torch.randn(12, 7, 7)]
    leaves.insert(0, torch.randn(12, 3, 8, 8))
    for leaf in leaves:
        leaf.requires_grad_()
    rpn = RpnConfig()

    def judge(chosen):
        return gather_from_levels(levels, chosen), gather_from_levels(deltas, chosen)

    with NothingWaits():
        terms = rpn_losses(judge, anchors, truths, range(3), rpn, coder, 1 / 9)
        slots = choose_training_rois(proposals, truths, range(3), settings)
        positive = slots.positive()
        terms |= box_losses(leaves[-3], leaves[-2], slots, coder, 1.0)
        terms["mask"] = mask_loss(leaves[-1], torch.zeros(12, 7, 7), positive.is_meant)
        places = keypoint_targets(targets, positive, 3, 8)
        terms["keypoint"] = keypoint_loss(leaves[0], places)
        sum(term.total / term.count.clamp(min=1) for term in terms.values()).backward()
    assert slots.rois.shape == (48, 5)
    assert positive.rois.shape == (12, 5)
    assert all(leaf.grad.isfinite().all() for leaf in leaves)
    with pytest.raises(AssertionError, match="nonzero waits"), NothingWaits():
        slots.compact()


def test_levels_are_read_as_if_they_were_one():
    generator = torch.Generator().manual_seed(0)
    levels = [torch.rand(2, size, 4, generator=generator) for size in (50, 7, 1)]
    index = torch.randint(0, 58, (2, 30), generator=generator)
    joined = torch.cat(levels, 1).gather(1, index[..., None].expand(-1, -1, 4))
    assert gather_from_levels(levels, index).equal(joined)
    flat = [level[..., 0] for level in levels]
    assert gather_from_levels(flat, index).equal(joined[..., 0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_learning_side_of_a_step_does_not_wait_for_the_gpu(
    full_detector, scenes, with_keypoints, batch_of
):
    device = torch.device("cuda")
    detector, batch = full_detector.to(device), batch_of(scenes).to(device)
    targets = [with_keypoints(target).to(device) for target in scenes]
    features = detector.features(batch)
    detector(batch, targets)  # first runs load kernels
    proposals, _ = detector.rpn(features, batch, targets)
    torch.cuda.set_sync_debug_mode("error")
    try:
        terms = detector.roi_heads.losses(features, proposals, batch, targets)
        sum(term.total / term.count.clamp(min=1) for term in terms.values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
