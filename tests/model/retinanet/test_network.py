import pytest
import torch
from torchvision.models.detection import (
    RetinaNet_ResNet50_FPN_V2_Weights,
    RetinaNet_ResNet50_FPN_Weights,
)
from torchvision.ops import box_iou, generalized_box_iou_loss

from model import ModelConfig, build_detector
from model.boxes.selection import keep_best_boxes
from model.config import RetinaNetConfig
from model.retinanet.loss import generalized_iou_loss
from model.retinanet.network import octave_sizes
from model.structures import ImageSize
from tests.ops_cuda.test_proposals import RefusesToWait

LOSSES = {"retinanet_class", "retinanet_box"}
SMALL = {"anchor_sizes": (8, 16, 32, 48, 64), "layers": 2}


@pytest.fixture
def build(tiny_config):
    def build(**settings):
        torch.manual_seed(0)
        config = tiny_config(box=None, mask=None, retinanet=SMALL | settings)
        return build_detector(config)

    return build


def total(terms):
    return sum(term.total / term.count.clamp(min=1) for term in terms.values())


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_two_scenes_are_learned_by_heart(build, scenes, draw_image, batch_of, box_loss):
    detector = build(box_loss=box_loss).train()
    batch = batch_of(scenes)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        loss = total(detector(batch, scenes))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    pictures = [draw_image(target).numpy() for target in scenes]
    for target, found in zip(scenes, detector.predict(pictures), strict=True):
        assert found.masks is None
        sure = found.above(0.5)
        overlap = box_iou(target.boxes, sure.boxes)
        assert (overlap.amax(dim=1) > 0.7).all()
        assert torch.equal(sure.labels[overlap.argmax(dim=1)], target.labels)


@pytest.mark.parametrize("norm", ["none", "group_norm"])
@pytest.mark.parametrize("empty_images", [1, 2])
def test_every_parameter_takes_part_whatever_the_images_hold(
    build, scenes, box_targets, batch_of, norm, empty_images
):
    detector = build(norm=norm)
    targets = [box_targets([], [])] * empty_images + scenes[: 2 - empty_images]
    terms = detector(batch_of(targets), targets)
    assert terms.keys() == LOSSES
    total(terms).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in detector.parameters())
    assert terms["retinanet_class"].total > 0
    if empty_images == 2:
        assert terms["retinanet_class"].count == terms["retinanet_box"].total == 0


def test_a_batch_loses_what_its_images_lose_alone(build, scenes, box_targets, batch_of):
    detector = build()
    crowded = [box_targets([[2 + 9 * i, 5, 10 + 9 * i, 20 + i] for i in range(6)], [1] * 6), *scenes]
    canvas = ImageSize(96, 64)
    together = detector(batch_of(crowded, canvas=canvas), crowded)
    alone = [detector(batch_of([target], canvas=canvas), [target]) for target in crowded]
    for name, term in together.items():
        # sums in another order, fp32
        torch.testing.assert_close(
            term.total, sum(one[name].total for one in alone), rtol=1e-4, atol=0
        )
        assert term.count == sum(one[name].count for one in alone) > 0
        assert not term.count.requires_grad


def test_degenerate_objects_leave_the_losses_finite(build, box_targets, batch_of):
    target = box_targets([[10, 10, 10, 10], [10, 10, 10.001, 10.001], [0, 0, 64, 64]], [1, 1, 2])
    for box_loss in ("smooth_l1", "giou"):
        detector = build(box_loss=box_loss)
        terms = detector(batch_of([target]), [target])
        total(terms).backward()
        assert all(p.grad.isfinite().all() for p in detector.parameters())


def test_the_losses_do_not_wait_for_the_device(build, scenes, batch_of):
    detector, batch = build(), batch_of(scenes)
    features = [feature.detach() for feature in detector.features(batch)]
    expected = detector.retinanet.losses(features, batch, scenes)
    with RefusesToWait():
        terms = detector.retinanet.losses(features, batch, scenes)
    assert all(terms[name].total == expected[name].total for name in LOSSES)


def test_settings_scale_the_box_loss(build, scenes, batch_of):
    def box_loss(**settings):
        return build(**settings)(batch_of(scenes), scenes)["retinanet_box"].total

    plain = box_loss()
    # deltas start near 0, so that targets ten times as large are ten times as far away
    weighted = box_loss(delta_weights=(10, 10, 10, 10), box_loss_weight=0.25)
    torch.testing.assert_close(weighted, 2.5 * plain, rtol=0.05, atol=0)
    assert box_loss(smooth_l1_beta=1.0) < plain


def test_at_the_start_every_score_is_about_the_prior(build, scenes, batch_of):
    detector = build(prior=0.02)
    logits, _ = detector.retinanet(detector.features(batch_of(scenes))[0])
    # the last weights are drawn with a deviation of 0.01
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.02), rtol=0.1, atol=0)


@pytest.mark.parametrize("ties", [False, True])
def test_detections_are_the_best_of_all_pairs_of_anchor_and_class(build, scenes, batch_of, ties):
    detector = build(pre_nms=25, score_threshold=0.3, delta_weights=(10, 10, 5, 5))
    network, batch = detector.retinanet, batch_of(scenes)
    with torch.inference_mode():
        features = detector.features(batch)
        network.class_logits.weight *= 300
        network.class_logits.bias.zero_()
        network.box_deltas.weight *= 300
        if ties:
            network.class_logits.weight.zero_()
        found = network.detect(features, batch)
        anchors = network.anchors(
            [ImageSize(*f.shape[-2:]) for f in features], ImageSize(*batch.pixels.shape[-2:])
        )
        boxes, scores, labels, images = [], [], [], []
        for feature, grid in zip(features, anchors, strict=True):
            logits, deltas = network(feature)
            for image, (all_logits, moved) in enumerate(zip(logits, deltas, strict=True)):
                order = all_logits.flatten().argsort(descending=True, stable=True)[:25]
                boxes.append(network.coder.decode(moved, grid)[order // 3])
                scores.append(all_logits.flatten()[order].sigmoid())
                labels.append(order % 3 + 1)
                images.append(torch.full_like(order, image))
        parts = [torch.cat(part) for part in (boxes, scores, images, labels)]
        sure = parts[1] > 0.3
        expected = keep_best_boxes(*(part[sure] for part in parts), batch.sizes, 0.5, 100)
    assert found.counts == expected.counts
    assert min(found.counts) > 2
    assert found.labels.equal(expected.labels)
    # sigmoid and exponent of another number of values at once may round the last bit otherwise
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.rois, expected.rois, rtol=1e-5, atol=1e-5)


def test_the_sizes_of_a_level_divide_the_octave():
    three = octave_sizes(RetinaNetConfig(), whole_pixels=False)
    for smallest, sizes in zip((32, 64, 128, 256, 512), three, strict=True):
        ratios = [size / smallest for size in sizes]
        assert ratios == pytest.approx([1, 2 ** (1 / 3), 2 ** (2 / 3)])
    one = RetinaNetConfig(anchor_scales=1)
    assert octave_sizes(one, whole_pixels=False) == [[32], [64], [128], [256], [512]]
    assert octave_sizes(RetinaNetConfig(), whole_pixels=True)[0] == [32, 40, 50]


def test_boxes_lose_what_their_generalized_iou_lacks():
    generator = torch.Generator().manual_seed(4)
    start = 50 * torch.rand(2, 40, 2, generator=generator)
    boxes, others = torch.cat((start, start + 30 * torch.rand(2, 40, 2, generator=generator)), 2)
    others[0] = boxes[0]
    loss = generalized_iou_loss(boxes, others)
    torch.testing.assert_close(loss, generalized_box_iou_loss(boxes, others))
    assert loss[0] == pytest.approx(0, abs=1e-6)
    assert loss.max() > 1


@pytest.mark.parametrize(
    ("weights", "backbone_norm", "retinanet"),
    [
        (RetinaNet_ResNet50_FPN_Weights.COCO_V1, "frozen_bn", {"p6_from": "p5"}),
        (RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1, "batch_norm", {"norm": "group_norm"}),
    ],
    ids=["v1", "v2"],
)
def test_it_has_as_many_parameters_as_torchvision_s(weights, backbone_norm, retinanet):
    config = ModelConfig.model_validate(
        {
            "num_classes": 91,
            "backbone": {"norm": backbone_norm},
            "box": None,
            "mask": None,
            "retinanet": retinanet,
        }
    )
    with torch.device("meta"):
        detector = build_detector(config)
    assert sum(p.numel() for p in detector.parameters()) == weights.meta["num_params"]


def test_autocast_gives_about_the_same_losses(build, scenes, batch_of):
    # Of a map of one cell, torch 2.15 gives P7's bfloat16 weights a gradient that is no number.
    detector, batch = build(), batch_of(scenes, canvas=ImageSize(128, 128))
    exact = detector(batch, scenes)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = detector(batch, scenes)
    total(rounded).backward()
    for name, term in rounded.items():
        assert term.total.dtype == torch.float32
        # 8 bits of mantissa through some twenty layers
        torch.testing.assert_close(term.total, exact[name].total, rtol=0.05, atol=0)
    assert all(p.grad.isfinite().all() for p in detector.parameters())
