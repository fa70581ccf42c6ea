"""Every backbone, pyramid and head trains, predicts, and is recognized by its weights."""

import numpy as np
import pytest
import torch

from model import ModelConfig, Predictor, build_detector
from model.config import Conventions
from model.heads import roi_heads as roi_heads_module
from model.weights.architecture.detector import infer_architecture
from tests.model.architectures import ARCHITECTURES, BOX, MASK, architecture_config
from tests.model.training import total_loss, train_steps


@pytest.fixture
def architecture(tiny_config):
    """Function from the name of an architecture and changes to its settings."""
    return lambda name, **changes: architecture_config(tiny_config, name, **changes)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_trains_and_predicts(name, architecture, scenes, make_batch, draw_image):
    torch.manual_seed(0)
    detector = build_detector(architecture(name))
    losses = train_steps(detector, make_batch(scenes), scenes, steps=4, lr=1e-3)
    assert losses[-1] < losses[0]
    for parameter_name, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
        assert parameter.grad is None or parameter.grad.isfinite().all(), parameter_name
    images = [draw_image(scene).numpy() for scene in scenes]
    for result in Predictor(detector).predict(images):
        assert len(result) > 0
        if detector.config.mask is not None:
            side = 14 if detector.config.backbone.features == "c4" else 28
            assert result.masks.shape[1:] == (side, side)


@pytest.mark.parametrize("norm", ["frozen_bn", "batch_norm", "group_norm"])
@pytest.mark.parametrize("depth", [18, 50])
def test_every_norm_trains_in_basic_blocks_and_bottlenecks(
    norm, depth, scenes, tiny_config, make_batch
):
    backbone = {"depth": depth, "norm": norm, "frozen_stages": 0, "width": 8}
    detector = build_detector(tiny_config(backbone=backbone))
    losses = train_steps(detector, make_batch(scenes), scenes, steps=8, lr=1e-3)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_architecture_is_inferred_from_the_weights(name, architecture):
    config = architecture(name)
    state = build_detector(config).state_dict()
    # Weights do not show frozen stages, dilation and anchors.
    known = ModelConfig.model_validate(
        {
            "backbone": {"features": config.backbone.features}
            if name == "dc5"
            else {"deformable_stages": config.backbone.deformable_stages},
            "rpn": config.rpn.model_dump(exclude={"layers"}),
        }
    )
    inferred = infer_architecture(state, known, Conventions())
    build_detector(inferred).load_state_dict(state)
    unknown = {"frozen_stages"}
    expected = config.backbone.model_dump(exclude=unknown)
    assert inferred.backbone.model_dump(exclude=unknown) == expected
    assert inferred.rpn == config.rpn
    if config.backbone.features == "fpn":
        assert inferred.fpn == config.fpn
    unknown = {"samples_per_image", "score_threshold"} | (
        {"hidden"} if config.backbone.features == "c4" else set()
    )
    assert inferred.box.model_dump(exclude=unknown) == config.box.model_dump(exclude=unknown)
    if config.mask is None:
        assert inferred.mask is None
    else:
        # With C4 the mask head has no convolutions, whatever the setting.
        unknown = {"layers"} if config.backbone.features == "c4" else set()
        assert inferred.mask.model_dump(exclude=unknown) == config.mask.model_dump(exclude=unknown)


@pytest.mark.parametrize("part", ["box", "mask"])
def test_a_class_agnostic_head_equals_one_with_equal_rows_per_class(
    part, architecture, scenes, make_batch, draw_image
):
    torch.manual_seed(0)
    settings = {"box": BOX, "mask": MASK}[part]
    per_class = build_detector(architecture("class_agnostic", **{part: settings}))
    agnostic = build_detector(
        architecture("class_agnostic", **{part: settings | {"class_agnostic": True}})
    )
    layer, rows = {"box": ("box.box_deltas", 4), "mask": ("mask.logits", 1)}[part]
    state = per_class.state_dict()
    for kind in ("weight", "bias"):
        name = f"roi_heads.{layer}.{kind}"
        shared = torch.randn_like(state[name][:rows]) * 0.01
        state[name] = shared.repeat(4, *[1] * (shared.ndim - 1))
        assert agnostic.state_dict()[name].shape == shared.shape
        agnostic.state_dict()[name].copy_(shared)
    per_class.load_state_dict(state)
    others = {n: t for n, t in state.items() if f"roi_heads.{layer}." not in n}
    agnostic.load_state_dict(others, strict=False)
    expected, terms = (d.train()(make_batch(scenes), scenes) for d in (per_class, agnostic))
    for name, term in terms.items():
        torch.testing.assert_close(term.total, expected[name].total, rtol=1e-5, atol=1e-6)
    images = [draw_image(scene).numpy() for scene in scenes]
    results, references = (Predictor(d).predict(images) for d in (agnostic, per_class))
    for result, reference in zip(results, references, strict=True):
        assert result.labels.equal(reference.labels)
        torch.testing.assert_close(result.boxes, reference.boxes)
        torch.testing.assert_close(result.masks, reference.masks)


def test_padding_does_not_count_in_batch_norms(architecture, scenes, make_batch, monkeypatch):
    monkeypatch.setattr(roi_heads_module, "_syncs_are_free", lambda device: False)
    detector = build_detector(architecture("torchvision_v2")).train()
    rows = []
    detector.roi_heads.mask.norms[0].register_forward_hook(
        lambda _, arguments, __: rows.append(len(arguments[0]))
    )
    terms = detector(make_batch(scenes), scenes)
    assert rows == [terms["mask"].count]


def test_without_a_pyramid_all_anchors_and_rois_are_on_one_map(architecture, scenes, make_batch):
    for name, stride in (("c4", 16), ("c5", 32), ("dc5", 16)):
        detector = build_detector(architecture(name)).eval()
        batch = make_batch(scenes)
        (feature,) = detector.features(batch)
        assert feature.shape[2] == batch.pixels.shape[2] // stride
        ratios = len(detector.config.rpn.anchor_ratios)
        assert detector.rpn.anchors.per_cell == 5 * ratios
        assert detector.rpn.anchors.strides == (stride,)
        assert detector.roi_heads.box_pooler.strides == (stride,)


def test_images_without_objects_give_finite_losses(architecture, box_targets, make_batch):
    empty = [box_targets([], [])]
    for name in ("c4", "torchvision_v2", "group_norm"):
        detector = build_detector(architecture(name)).train()
        loss = total_loss(detector(make_batch(empty), empty))
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())
        assert all(b.isfinite().all() for b in detector.buffers())
        assert len(Predictor(detector).predict([np.zeros((30, 40, 3), np.uint8)])) == 1
