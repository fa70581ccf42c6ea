import pytest
import torch
from torchvision.models.detection import (
    RetinaNet_ResNet50_FPN_V2_Weights,
    RetinaNet_ResNet50_FPN_Weights,
)
from torchvision.ops import box_iou

from model import ModelConfig, Predictor, build_detector
from model.boxes.selection import Candidates, select_boxes
from model.config import RetinaNetConfig
from model.retinanet.network import octave_sizes
from model.structures import ImageSize, join_targets
from tests.model.training import total_loss, train_steps
from tests.ops_cuda.forbid_sync import ForbidSync

LOSSES = {"retinanet_class", "retinanet_box"}
SMALL = {"anchor_sizes": (8, 16, 32, 48, 64), "layers": 2}


@pytest.fixture
def build(tiny_config):
    def build(**settings):
        torch.manual_seed(0)
        config = tiny_config(box=None, mask=None, retinanet=SMALL | settings)
        return build_detector(config)

    return build


def test_class_weights_by_name_change_the_class_loss_alone(build, scenes, make_batch):
    plain = build()
    name = plain.categories[0].name  # the first object of the first scene
    weighted = build(class_weights={name: 3.0, "elsewhere": 9.0})
    weighted.load_state_dict(plain.state_dict())
    losses, others = (each.train()(make_batch(scenes), scenes) for each in (plain, weighted))
    assert others["retinanet_class"].total > losses["retinanet_class"].total
    assert torch.equal(others["retinanet_box"].total, losses["retinanet_box"].total)
    assert others["retinanet_class"].count == losses["retinanet_class"].count


@pytest.mark.parametrize("box_loss", ["smooth_l1", "giou"])
def test_it_overfits_two_scenes(build, scenes, draw_image, make_batch, box_loss):
    detector = build(box_loss=box_loss)
    losses = train_steps(detector, make_batch(scenes), scenes, steps=60, lr=2e-3)
    assert losses[-1] < 0.2 * losses[0]
    images = [draw_image(target).numpy() for target in scenes]
    for target, detections in zip(scenes, Predictor(detector).predict(images), strict=True):
        assert detections.masks is None
        confident = detections.above(0.5)
        iou = box_iou(target.boxes, confident.boxes)
        assert (iou.amax(dim=1) > 0.7).all()
        assert torch.equal(confident.labels[iou.argmax(dim=1)], target.labels)


@pytest.mark.parametrize("norm", ["none", "group_norm"])
@pytest.mark.parametrize("empty_images", [1, 2])
def test_every_parameter_has_a_gradient_even_without_objects(
    build, scenes, box_targets, make_batch, norm, empty_images
):
    detector = build(norm=norm)
    targets = [box_targets([], [])] * empty_images + scenes[: 2 - empty_images]
    terms = detector(make_batch(targets), targets)
    assert terms.keys() == LOSSES
    total_loss(terms).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in detector.parameters())
    assert terms["retinanet_class"].total > 0
    if empty_images == 2:
        assert terms["retinanet_class"].count == terms["retinanet_box"].total == 0


def test_losses_of_a_batch_are_the_sums_of_those_of_its_images(
    build, scenes, box_targets, make_batch
):
    detector = build()
    crowded = box_targets([[2 + 9 * i, 5, 10 + 9 * i, 20 + i] for i in range(6)], [1] * 6)
    targets, canvas = [crowded, *scenes], ImageSize(96, 64)
    together = detector(make_batch(targets, canvas=canvas), targets)
    alone = [detector(make_batch([target], canvas=canvas), [target]) for target in targets]
    for name, term in together.items():
        # Summed in another order, fp32.
        torch.testing.assert_close(
            term.total, sum(one[name].total for one in alone), rtol=1e-4, atol=0
        )
        assert term.count == sum(one[name].count for one in alone) > 0
        assert not term.count.requires_grad


def test_degenerate_objects_have_finite_losses_and_gradients(build, box_targets, make_batch):
    target = box_targets([[10, 10, 10, 10], [10, 10, 10.001, 10.001], [0, 0, 64, 64]], [1, 1, 2])
    for box_loss in ("smooth_l1", "giou"):
        detector = build(box_loss=box_loss)
        terms = detector(make_batch([target]), [target])
        total_loss(terms).backward()
        assert all(p.grad.isfinite().all() for p in detector.parameters())


def test_losses_need_no_sync(build, scenes, make_batch):
    detector, batch = build(), make_batch(scenes)
    features = [feature.detach() for feature in detector.features(batch)]
    targets = join_targets(scenes, torch.device("cpu"))
    expected = detector.losses(features, batch, targets)
    with ForbidSync():
        targets = join_targets(scenes, torch.device("cpu"))
        terms = detector.losses(features, batch, targets)
    assert all(terms[name].total == expected[name].total for name in LOSSES)


def test_settings_scale_the_box_loss(build, scenes, make_batch):
    def box_loss(**settings):
        return build(**settings)(make_batch(scenes), scenes)["retinanet_box"].total

    plain = box_loss()
    # Deltas start near 0, so target deltas ten times as large are ten times as far away.
    weighted = box_loss(delta_weights=(10, 10, 10, 10), box_loss_weight=0.25)
    torch.testing.assert_close(weighted, 2.5 * plain, rtol=0.05, atol=0)
    assert box_loss(smooth_l1_beta=1.0) < plain


def test_scores_start_at_about_the_prior(build, scenes, make_batch):
    detector = build(prior=0.02)
    logits, _ = detector.retinanet(detector.features(make_batch(scenes))[0])
    # The last weights are drawn with a standard deviation of 0.01.
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.02), rtol=0.1, atol=0)


def rank_all_pairs(head, features, batch, pre_nms):
    """Rank every pair of anchor and class, one level and image at a time."""
    boxes, scores, labels, images = [], [], [], []
    anchors = head.anchors(features, batch.canvas)
    for feature, level_anchors in zip(features, anchors, strict=True):
        logits, deltas = head(feature)
        for image, (all_logits, all_deltas) in enumerate(zip(logits, deltas, strict=True)):
            order = all_logits.flatten().argsort(descending=True, stable=True)[:pre_nms]
            classes = all_logits.shape[1]
            boxes.append(head.coder.decode(all_deltas, level_anchors)[order // classes])
            scores.append(all_logits.flatten()[order].sigmoid())
            labels.append(order % classes + 1)
            images.append(torch.full_like(order, image))
    return Candidates(*(torch.cat(part) for part in (boxes, scores, images, labels)))


@pytest.mark.parametrize("ties", [False, True])
def test_detections_come_from_the_best_of_all_pairs_of_anchor_and_class(
    build, scenes, make_batch, ties
):
    detector = build(pre_nms=25, score_threshold=0.3, delta_weights=(10, 10, 5, 5))
    head, batch = detector.retinanet, make_batch(scenes)
    with torch.inference_mode():
        features = detector.features(batch)
        head.class_logits.weight *= 300
        head.class_logits.bias.zero_()
        head.box_deltas.weight *= 300
        if ties:
            head.class_logits.weight.zero_()
        selected = detector.detect(features, batch)
        candidates = rank_all_pairs(head, features, batch, pre_nms=25)
        above = candidates.scores > 0.3
        expected = select_boxes(
            Candidates(*(part[above] for part in candidates)), batch.sizes, 0.5, 100
        )
    assert selected.counts == expected.counts
    assert min(selected.counts) > 2
    assert selected.labels.equal(expected.labels)
    # The last bit of sigmoid and exp can depend on how many values are computed at once.
    torch.testing.assert_close(selected.scores, expected.scores, rtol=1e-6, atol=0)
    torch.testing.assert_close(selected.rois, expected.rois, rtol=1e-5, atol=1e-5)


def test_anchor_sizes_divide_an_octave_evenly():
    three = octave_sizes(RetinaNetConfig(), whole_pixels=False)
    for smallest, sizes in zip((32, 64, 128, 256, 512), three, strict=True):
        ratios = [size / smallest for size in sizes]
        assert ratios == pytest.approx([1, 2 ** (1 / 3), 2 ** (2 / 3)])
    one = RetinaNetConfig(anchor_scales=1)
    assert octave_sizes(one, whole_pixels=False) == [[32], [64], [128], [256], [512]]
    assert octave_sizes(RetinaNetConfig(), whole_pixels=True)[0] == [32, 40, 50]


@pytest.mark.parametrize(
    ("weights", "backbone_norm", "retinanet"),
    [
        (RetinaNet_ResNet50_FPN_Weights.COCO_V1, "frozen_bn", {"p6_from": "p5"}),
        (RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1, "batch_norm", {"norm": "group_norm"}),
    ],
    ids=["v1", "v2"],
)
def test_retinanet_has_as_many_parameters_as_in_torchvision(weights, backbone_norm, retinanet):
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


def test_losses_under_autocast_are_close_to_exact_ones(build, scenes, make_batch):
    # On a map of one cell, torch 2.15 computes NaN gradients of P7's bfloat16 weights.
    detector, batch = build(), make_batch(scenes, canvas=ImageSize(128, 128))
    exact = detector(batch, scenes)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = detector(batch, scenes)
    total_loss(rounded).backward()
    for name, term in rounded.items():
        assert term.total.dtype == torch.float32
        # 8 bits of mantissa through about twenty layers.
        torch.testing.assert_close(term.total, exact[name].total, rtol=0.05, atol=0)
    assert all(p.grad.isfinite().all() for p in detector.parameters())
