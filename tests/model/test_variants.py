"""Every backbone, pyramid and head of the settings builds, learns, predicts and is recognised."""

import numpy as np
import pytest
import torch
from torchvision.models import detection as zoo

from model import ModelConfig, build_detector
from model.config import Conventions
from model.heads import roi_heads as roi_heads_module
from model.weights.architecture.detector import infer_architecture

NARROW = {"depth": 50, "norm": "group_norm", "frozen_stages": 0, "width": 8}
GROUPS = {"groups": 4, "group_width": 4}
BOX = {"hidden": 32, "samples_per_image": 32, "score_threshold": 0.001}
CONV_HEAD = {"conv_layers": 4, "conv_channels": 16, "fc_layers": 1}
MASK = {"channels": 16, "layers": 2}
VARIANTS = {
    "resnext": {"backbone": NARROW | GROUPS},
    "deformable v1": {"backbone": NARROW | {"deformable": "v1"}},
    "deformable v2": {
        "backbone": NARROW | {"deformable": "v2", "deformable_stages": (5,), **GROUPS}
    },
    "c4": {"backbone": NARROW | {"features": "c4"}, "box": BOX | {"pool_side": 14}},
    "c4 of basic blocks": {
        "backbone": NARROW | {"features": "c4", "depth": 18},
        "box": BOX | {"pool_side": 14, "class_agnostic": True},
        "mask": MASK | {"class_agnostic": True},
    },
    "c4 without masks": {
        "backbone": NARROW | {"features": "c4", "norm": "batch_norm"},
        "box": BOX | {"pool_side": 14},
        "mask": None,
    },
    "c5": {"backbone": NARROW | {"features": "c5"}},
    "dc5": {
        "backbone": NARROW | {"features": "dc5"},
        "conventions": {"dilate_first_block": True},
        "rpn": {"anchor_ratios": (1.0, 2.0)},
    },
    "group norm": {
        "backbone": NARROW,
        "fpn": {"channels": 32, "norm": "group_norm"},
        "box": BOX | CONV_HEAD | {"norm": "group_norm"},
        "mask": MASK | {"norm": "group_norm"},
    },
    "torchvision v2": {
        "backbone": NARROW | {"norm": "batch_norm"},
        "fpn": {"channels": 32, "norm": "batch_norm"},
        "rpn": {"layers": 2},
        "box": BOX | CONV_HEAD | {"norm": "batch_norm"},
        "mask": MASK | {"norm": "batch_norm"},
    },
    "frozen norms": {
        "backbone": NARROW | {"norm": "frozen_bn", "frozen_stages": 2},
        "fpn": {"channels": 32, "norm": "frozen_bn"},
        "box": BOX | {"conv_layers": 1, "fc_layers": 3, "norm": "frozen_bn"},
    },
    "class agnostic": {
        "backbone": NARROW,
        "box": BOX | {"class_agnostic": True},
        "mask": MASK | {"class_agnostic": True, "layers": 0},
    },
}


@pytest.fixture
def variant(tiny_config):
    """Function: name -> config of a narrow detector."""

    def config(name, **changes):
        settings = VARIANTS[name] | changes
        rpn = tiny_config().rpn.model_dump() | settings.get("rpn", {})
        return tiny_config(**{"box": BOX, "mask": MASK} | settings | {"rpn": rpn})

    return config


def total(terms):
    return sum(term.total / term.count.clamp(min=1) for term in terms.values())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns_and_predicts(name, variant, scenes, batch_of, draw_image):
    torch.manual_seed(0)
    detector = build_detector(variant(name)).train()
    batch, losses = batch_of(scenes), []
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    for _ in range(4):
        losses.append(total(detector(batch, scenes)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    for parameter_name, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
        assert parameter.grad is None or parameter.grad.isfinite().all(), parameter_name
    for found in detector.predict([draw_image(scene).numpy() for scene in scenes]):
        assert len(found) > 0
        if detector.config.mask is not None:
            side = 14 if detector.config.backbone.features == "c4" else 28
            assert found.masks.shape[1:] == (side, side)


@pytest.mark.parametrize("name", VARIANTS)
def test_its_weights_tell_what_it_is(name, variant):
    config = variant(name)
    state = build_detector(config).state_dict()
    # Of these, weights tell nothing: what is frozen, the dilation, the anchors.
    told = ModelConfig.model_validate(
        {
            "backbone": {"features": config.backbone.features}
            if name == "dc5"
            else {"deformable_stages": config.backbone.deformable_stages},
            "rpn": config.rpn.model_dump(exclude={"layers"}),
        }
    )
    found = infer_architecture(state, told, Conventions())
    build_detector(found).load_state_dict(state)
    untold = {"frozen_stages"}
    assert found.backbone.model_dump(exclude=untold) == config.backbone.model_dump(exclude=untold)
    assert found.rpn == config.rpn
    if config.backbone.features == "fpn":
        assert found.fpn == config.fpn
    untold = {"samples_per_image", "score_threshold"} | (
        {"hidden"} if config.backbone.features == "c4" else set()
    )
    assert found.box.model_dump(exclude=untold) == config.box.model_dump(exclude=untold)
    if config.mask is None:
        assert found.mask is None
    else:
        # With c4 it has no convolutions, whatever the setting says.
        untold = {"layers"} if config.backbone.features == "c4" else set()
        assert found.mask.model_dump(exclude=untold) == config.mask.model_dump(exclude=untold)


def test_the_mask_head_of_c4_reads_res5_s_maps_of_the_box_head(
    variant, scenes, batch_of, monkeypatch
):
    detector = build_detector(variant("c4"))
    heads, seen, chosen = detector.roi_heads, [], []
    choose = roi_heads_module.choose_training_rois
    monkeypatch.setattr(
        roi_heads_module,
        "choose_training_rois",
        lambda *arguments: chosen.append(choose(*arguments)) or chosen[0],
    )
    heads.mask.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    runs = []
    heads.box.res5.register_forward_hook(lambda *_: runs.append(1))
    batch = batch_of(scenes)
    detector(batch, scenes)
    assert len(runs) == 1
    (shown, labels) = seen[0]
    positive = chosen[0].compact().positive()
    anew = heads.box.extract(heads.box_pooler(detector.features(batch), positive.rois))
    assert len(labels) > 1
    assert labels.equal(positive.labels)
    # Group norm looks at each ROI alone: the same up to the order of sums.
    torch.testing.assert_close(shown, anew, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_c4_judges_many_rois_as_it_judges_few(variant, scenes, batch_of, monkeypatch):
    detector = build_detector(variant("c4")).eval()
    features = detector.features(batch_of(scenes))
    rois = torch.tensor([[0.0, 2, 3, 40, 50], [1, 5, 5, 60, 30], [0, 9, 9, 30, 30]])
    whole = detector.roi_heads._judge(features, rois)
    monkeypatch.setattr(roi_heads_module, "ROIS_AT_ONCE", 2)
    for part, expected in zip(detector.roi_heads._judge(features, rois), whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stages", [4, 5])
def test_frozen_stages_count_res5_of_the_box_head(stages, variant, scenes, batch_of):
    backbone = NARROW | {"features": "c4", "norm": "batch_norm", "frozen_stages": stages}
    detector = build_detector(variant("c4", backbone=backbone)).train()
    res5 = detector.roi_heads.box.res5
    trains = stages < 5
    assert {p.requires_grad for p in res5.parameters()} == {trains}
    before = res5[0].bn1.running_mean.clone()
    detector(batch_of(scenes), scenes)
    assert (not res5[0].bn1.running_mean.equal(before)) == trains
    assert not any(p.requires_grad for p in detector.backbone.parameters())


@pytest.mark.parametrize("part", ["box", "mask"])
def test_one_for_all_classes_is_one_per_class_with_equal_rows(
    part, variant, scenes, batch_of, draw_image
):
    torch.manual_seed(0)
    per_class = build_detector(
        variant("class agnostic", **{part: {"box": BOX, "mask": MASK}[part]})
    )
    for_all = build_detector(
        variant(
            "class agnostic",
            **{part: {"box": BOX, "mask": MASK}[part] | {"class_agnostic": True}},
        )
    )
    layer, rows = {"box": ("box.box_deltas", 4), "mask": ("mask.logits", 1)}[part]
    state = per_class.state_dict()
    for kind in ("weight", "bias"):
        name = f"roi_heads.{layer}.{kind}"
        one = torch.randn_like(state[name][:rows]) * 0.01
        state[name] = one.repeat(4, *[1] * (one.ndim - 1))
        assert for_all.state_dict()[name].shape == one.shape
        for_all.state_dict()[name].copy_(one)
    per_class.load_state_dict(state)
    others = {n: t for n, t in state.items() if f"roi_heads.{layer}." not in n}
    for_all.load_state_dict(others, strict=False)
    expected, found = (d.train()(batch_of(scenes), scenes) for d in (per_class, for_all))
    for name, term in found.items():
        torch.testing.assert_close(term.total, expected[name].total, rtol=1e-5, atol=1e-6)
    pictures = [draw_image(scene).numpy() for scene in scenes]
    for one, other in zip(for_all.predict(pictures), per_class.predict(pictures), strict=True):
        assert one.labels.equal(other.labels)
        torch.testing.assert_close(one.boxes, other.boxes)
        torch.testing.assert_close(one.masks, other.masks)


def test_slots_that_mean_nothing_do_not_count_in_batch_norms(
    variant, scenes, batch_of, monkeypatch
):
    monkeypatch.setattr(roi_heads_module, "_waiting_is_free", lambda device: False)
    detector = build_detector(variant("torchvision v2")).train()
    rows = []
    detector.roi_heads.mask.norms[0].register_forward_hook(
        lambda _, arguments, __: rows.append(len(arguments[0]))
    )
    terms = detector(batch_of(scenes), scenes)
    assert rows == [terms["mask"].count]


def test_without_a_pyramid_every_size_stands_on_the_one_map(variant, scenes, batch_of):
    for name, stride in (("c4", 16), ("c5", 32), ("dc5", 16)):
        detector = build_detector(variant(name)).eval()
        batch = batch_of(scenes)
        (feature,) = detector.features(batch)
        assert feature.shape[2] == batch.pixels.shape[2] // stride
        ratios = len(detector.config.rpn.anchor_ratios)
        assert detector.rpn.anchors.per_cell == 5 * ratios
        assert detector.rpn.anchors.strides == (stride,)
        assert detector.roi_heads.box_pooler.strides == (stride,)


@pytest.mark.parametrize(
    ("name", "parameters"),
    # As torchvision publishes them with the weights (_weights.meta["num_params"]).
    [("maskrcnn_resnet50_fpn_v2", 46_359_409), ("fasterrcnn_resnet50_fpn_v2", 43_712_278)],
)
def test_torchvision_s_second_versions_have_their_number_of_parameters(name, parameters):
    conv_head = {"conv_layers": 4, "fc_layers": 1, "norm": "batch_norm"}
    config = {
        "num_classes": 90,
        "backbone": {"norm": "batch_norm", "frozen_stages": 0},
        "fpn": {"norm": "batch_norm"},
        "rpn": {"layers": 2},
        "box": conv_head,
        "mask": {"norm": "batch_norm"} if name.startswith("mask") else None,
    }
    with torch.device("meta"):
        ours = build_detector(ModelConfig.model_validate(config))
        theirs = getattr(zoo, name)(weights=None, weights_backbone=None)
    assert sum(p.numel() for p in ours.parameters()) == parameters
    assert sum(p.numel() for p in theirs.parameters()) == parameters


@pytest.mark.parametrize(
    "change", [{"groups": 32}, {"deformable": "v1"}, {"features": "dc5"}], ids=str
)
def test_what_needs_bottlenecks_is_refused_without_them(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))}.* depth of 50 or more; got 34"):
        ModelConfig.model_validate({"backbone": {"depth": 34} | change})


def test_c4_wants_a_pool_that_res5_can_halve():
    with pytest.raises(ValueError, match=r"pool_side must be even .* 14 as published"):
        ModelConfig.model_validate({"backbone": {"features": "c4"}})


def test_pictures_without_objects_give_finite_losses(variant, box_targets, batch_of):
    nothing = [box_targets([], [])]
    for name in ("c4", "torchvision v2", "group norm"):
        detector = build_detector(variant(name)).train()
        loss = total(detector(batch_of(nothing), nothing))
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())
        assert all(b.isfinite().all() for b in detector.buffers())
        assert len(detector.predict([np.zeros((30, 40, 3), np.uint8)])) == 1
