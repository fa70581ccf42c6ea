"""What several views of a picture show together."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from model import build_detector
from model.config import ModelConfig
from model.detections import Detections
from model.preprocess import pad_batch, resize_image
from model.settings import ConfigError, check_settings
from model.structures import ImageSize

KINDS = {
    "fpn": {},
    "c4": {"backbone": {"features": "c4"}, "box": {"hidden": 64, "pool_side": 6}},
    "c5": {"backbone": {"features": "c5"}, "keypoint": True},
    "retinanet": {
        "box": None,
        "mask": None,
        "retinanet": {"anchor_sizes": (8, 16, 32, 48, 64), "layers": 1, "score_threshold": 0.009},
    },
    "faster": {"mask": None},
    "keypoint": {"mask": None, "keypoint": True},
    "legacy": {"conventions": {"legacy_geometry": True}},
    "rpn": {"box": None, "mask": None},
}
BACKBONE = {"depth": 18, "norm": "group_norm", "frozen_stages": 0, "width": 8}
FEW = {
    "anchor_sizes": (8, 16, 32, 48, 64),
    "pre_nms_train": 100,
    "post_nms_train": 30,
    "pre_nms_test": 40,
    "post_nms_test": 20,
}
ONE_VIEW = {"short_sides": (64,), "long_side": 96, "flip": False}
MIRRORED = ONE_VIEW | {"flip": True}
SIZES = {"short_sides": (48, 64), "long_side": 120}


@pytest.fixture
def build(tiny_config, keypoint_head):
    """Detectors of each kind, all with the same weights."""

    def build(kind, augmentation, **changes):
        settings = {"rpn": FEW} | KINDS[kind] | changes
        settings["backbone"] = BACKBONE | settings.get("backbone", {})
        if settings.get("keypoint"):
            settings["keypoint"] = keypoint_head
        torch.manual_seed(0)
        detector = build_detector(tiny_config(test_augmentation=augmentation, **settings))
        with torch.no_grad():
            for name, parameter in detector.named_parameters():
                if name.endswith(("class_logits.weight", "objectness.weight")):
                    parameter *= 30  # random scores that differ
        return detector.eval()

    return build


@pytest.fixture(scope="module")
def learned(tiny_config, keypoint_head, squares, posed, picture_of, batch_of):
    """A scene, and the weights of a detector with masks and keypoints that knows it by heart."""
    scene = posed(squares([[6, 8, 30, 34], [34, 30, 60, 58]], [1, 2]))
    torch.manual_seed(0)
    config = tiny_config(keypoint=keypoint_head, backbone=BACKBONE, rpn=FEW)
    detector = build_detector(config).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    for _ in range(60):
        terms = detector(batch_of([scene]), [scene])
        optimizer.zero_grad()
        sum(term.total / term.count.clamp(min=1) for term in terms.values()).backward()
        optimizer.step()
    return scene, picture_of(scene).numpy(), detector.state_dict()


@pytest.fixture
def knowing(learned, tiny_config, keypoint_head):
    """The detector that knows the scene, looking at it as told."""

    def knowing(augmentation):
        config = tiny_config(
            test_augmentation=augmentation, keypoint=keypoint_head, backbone=BACKBONE, rpn=FEW
        )
        detector = build_detector(config)
        detector.load_state_dict(learned[2])
        return detector.eval()

    return knowing


@pytest.fixture
def noise():
    return np.random.default_rng(3).integers(0, 256, (64, 80, 3), dtype=np.uint8)


def mirrored(found, names=()):
    """What must be found in the mirrored picture."""
    width = found.image_size.width
    x1, y1, x2, y2 = found.boxes.unbind(1)
    keypoints = found.keypoints
    if keypoints is not None:
        swapped = [{"left": "right", "right": "left"}.get(name, name) for name in names]
        keypoints = keypoints[:, [names.index(name) for name in swapped]]
        keypoints = torch.cat((width - keypoints[..., :1], keypoints[..., 1:]), dim=2)
    return Detections(
        boxes=torch.stack((width - x2, y1, width - x1, y2), dim=1),
        scores=found.scores,
        labels=found.labels,
        masks=None if found.masks is None else found.masks.flip(2),
        image_size=found.image_size,
        keypoints=keypoints,
    )


def assert_alike(found, expected, box, rest):
    assert len(found) == len(expected) > 0
    assert found.image_size == expected.image_size
    assert found.labels.equal(expected.labels)
    torch.testing.assert_close(found.boxes, expected.boxes, rtol=0, atol=box)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=rest)
    assert (found.masks is None) == (expected.masks is None)
    assert (found.keypoints is None) == (expected.keypoints is None)
    if found.masks is not None:
        torch.testing.assert_close(found.masks, expected.masks, rtol=0, atol=rest)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rpn"])
def test_one_view_that_is_not_mirrored_shows_what_the_detector_finds_alone(build, noise, kind):
    (expected,) = build(kind, None).predict([noise])
    (found,) = build(kind, ONE_VIEW).predict([noise])
    assert_alike(found, expected, box=0, rest=0)
    if found.keypoints is not None:
        assert found.keypoints.equal(expected.keypoints)
        assert found.keypoints.shape == (len(found), 3, 3)


def test_one_view_of_a_resized_picture_shows_what_the_detector_finds_alone(knowing, learned):
    picture = np.kron(learned[1], np.ones((3, 3, 1), np.uint8))[:-5]
    (expected,) = knowing(None).predict([picture])
    (found,) = knowing(ONE_VIEW).predict([picture])
    # coordinates go to the picture and back: fp32 of about 100
    assert_alike(found, expected, box=1e-3, rest=1e-4)
    # They are looked for in the pixels of the picture, of which nine are one of the view: about the
    # same place, unless two of them are about as good.
    sure = found.scores > 0.5
    away = (found.keypoints - expected.keypoints)[sure, :2, :2].norm(dim=2)
    assert len(away) >= 2
    assert away.median() < 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirrored_picture_shows_mirrored_objects(build, noise, kind):
    detector = build(kind, SIZES)
    there, back = detector.predict([noise, np.ascontiguousarray(noise[:, ::-1])])
    names = detector.config.keypoint.names if detector.config.keypoint else ()
    # Pixels are resized, and sums made, in mirrored order: fp32.
    wanted = mirrored(there, names)
    assert_alike(back, wanted, box=2e-2, rest=2e-3)
    if names:
        away = (back.keypoints - wanted.keypoints)[..., :2].abs().amax(dim=2)
        # Of two places about as good, the other may win.
        assert (away < 0.05).float().mean() > 0.95


def test_alone_a_detector_does_not_know_that_it_sees_a_mirror_image(build, noise):
    """Else the law above would hold without doing anything for it."""
    there, back = build("fpn", None).predict([noise, np.ascontiguousarray(noise[:, ::-1])])
    wanted = mirrored(there)
    assert len(there) != len(back) or (wanted.boxes - back.boxes).abs().max() > 1


@pytest.mark.parametrize("flip", [False, True])
def test_what_was_found_stays_found_in_several_sizes(knowing, learned, flip):
    scene, picture, _ = learned
    (found,) = knowing({"short_sides": (56, 64, 72), "flip": flip}).predict([picture])
    sure = found.above(0.3)
    overlap = box_iou(scene.boxes, sure.boxes)
    assert (overlap.amax(dim=1) > 0.7).all()
    nearest = overlap.argmax(dim=1)
    assert sure.labels[nearest].equal(scene.labels)
    for box, mask in zip(scene.boxes.long().tolist(), sure.bitmaps()[nearest], strict=True):
        inside = mask[box[1] : box[3], box[0] : box[2]]
        union = (box[3] - box[1]) * (box[2] - box[0]) + mask.sum() - inside.sum()
        assert inside.sum() / union > 0.6


def greedy(boxes, scores, labels, iou, limit):
    """Suppression as it is written in books."""
    kept = []
    for n in sorted(range(len(scores)), key=lambda n: -scores[n]):
        rivals = [m for m in kept if labels[m] == labels[n]]
        if all(box_iou(boxes[n][None], boxes[m][None]).item() <= iou for m in rivals):
            kept.append(n)
    return kept[:limit]


def views_one_by_one(detector, picture):
    """Every view in a batch of its own: its maps, size, and whether it is mirrored."""
    settings = detector.config.test_augmentation
    original = ImageSize(*picture.shape[:2])
    for side in settings.short_sides:
        scale = side / min(original)
        size = ImageSize(round(original.height * scale), round(original.width * scale))
        for is_mirrored in (False, True):
            pixels = torch.from_numpy(picture[:, ::-1].copy() if is_mirrored else picture)
            batch = pad_batch([resize_image(pixels, size)], [original])
            yield detector.features(batch), batch, size, is_mirrored


@torch.inference_mode()
def test_views_are_joined_as_plain_loops_join_them(build, noise):
    """Boxes and masks; what a view shows comes from the parts of the detector."""
    detector = build("fpn", {"short_sides": (64, 96), "flip": True}, box={"score_threshold": 0.4})
    height, width = noise.shape[:2]
    boxes, scores, labels = [], [], []
    for features, batch, size, is_mirrored in views_one_by_one(detector, noise):
        proposals, _ = detector.rpn(features, batch)
        rois = proposals.rois()[proposals.present().flatten()]
        logits, deltas = detector.roi_heads.box(detector.roi_heads.box_pooler(features, rois))
        for roi, row, delta in zip(rois, logits.softmax(1), deltas, strict=True):
            for label in range(1, 4):
                if row[label] <= 0.4:
                    continue
                x1, y1, x2, y2 = detector.roi_heads.box_coder.decode(delta[label], roi[1:]).tolist()
                if is_mirrored:
                    x1, x2 = size.width - x2, size.width - x1
                x1, x2 = (min(max(x * width / size.width, 0), width) for x in (x1, x2))
                y1, y2 = (min(max(y * height / size.height, 0), height) for y in (y1, y2))
                boxes.append(torch.tensor([x1, y1, x2, y2]))
                scores.append(row[label].item())
                labels.append(label)
    kept = greedy(boxes, scores, labels, iou=0.5, limit=100)
    (found,) = detector.predict([noise])
    assert len(found) == len(kept) >= 5
    # other batches and coordinates in other order: fp32; and scores about equal change places
    away, partner = (
        torch.cdist(torch.stack([boxes[n] for n in kept]), found.boxes)
        .where(torch.tensor([labels[n] for n in kept])[:, None] == found.labels, torch.inf)
        .min(dim=1)
    )
    assert away.max() < 5e-2
    assert len(set(partner.tolist())) == len(kept)
    wanted = torch.tensor([scores[n] for n in kept])
    torch.testing.assert_close(found.scores[partner], wanted, rtol=0, atol=1e-3)

    totals = torch.zeros_like(found.masks)
    for features, _, size, is_mirrored in views_one_by_one(detector, noise):
        for n, (x1, y1, x2, y2) in enumerate(found.boxes.tolist()):
            x1, x2 = (x * size.width / width for x in (x1, x2))
            if is_mirrored:
                x1, x2 = size.width - x2, size.width - x1
            roi = torch.tensor([[0, x1, y1 * size.height / height, x2, y2 * size.height / height]])
            pooled = detector.roi_heads.mask_pooler(features, roi)
            mask = detector.roi_heads.mask(pooled, found.labels[n : n + 1]).sigmoid()[0]
            totals[n] += torch.fliplr(mask) if is_mirrored else mask
    torch.testing.assert_close(found.masks, totals / 4, rtol=0, atol=1e-3)


@torch.inference_mode()
def test_proposals_of_all_views_compete(build, noise):
    detector = build("rpn", MIRRORED, rpn=FEW | {"post_nms_test": 15})
    boxes, scores = [], []
    for features, batch, size, is_mirrored in views_one_by_one(detector, noise):
        proposals, _ = detector.rpn(features, batch)
        for box, logit in zip(proposals.boxes[0], proposals.logits[0], strict=True):
            x1, y1, x2, y2 = box.tolist()
            x1, x2 = (size.width - x2, size.width - x1) if is_mirrored else (x1, x2)
            boxes.append(torch.tensor([x1, y1, x2, y2]))
            scores.append(logit.sigmoid().item())
    kept = greedy(boxes, scores, [1] * len(boxes), detector.config.rpn.nms_iou, limit=15)
    (found,) = detector.predict([noise])
    assert len(found) == 15
    assert found.labels.eq(1).all()
    torch.testing.assert_close(
        found.boxes, torch.stack([boxes[n] for n in kept]), rtol=0, atol=2e-2
    )


@pytest.mark.parametrize("kind", ["fpn", "keypoint", "c4", "retinanet"])
def test_a_picture_without_objects_shows_none_in_any_view(build, noise, kind):
    never = {"score_threshold": 1.0}
    part = KINDS[kind].get("retinanet") or KINDS[kind].get("box", {"hidden": 64})
    changes = {"retinanet" if kind == "retinanet" else "box": part | never}
    for found in build(kind, SIZES, **changes).predict([noise, np.zeros((1, 1, 3), np.uint8)]):
        assert found.boxes.shape == (0, 4)
        assert found.masks is None or found.masks.shape[0] == 0
        assert found.keypoints is None or found.keypoints.shape == (0, 3, 3)
        assert (found.masks is None) == (kind in ("keypoint", "retinanet"))
        assert (found.keypoints is None) == (kind != "keypoint")


@pytest.mark.parametrize("kind", ["fpn", "retinanet"])
def test_all_views_together_find_no_more_than_the_limit(build, noise, kind):
    part = KINDS[kind].get("retinanet") or {"hidden": 64}
    name = "retinanet" if kind == "retinanet" else "box"
    every, some = (
        build(kind, SIZES, **{name: part | {"detections_per_image": limit}}).predict([noise])[0]
        for limit in (100, 7)
    )
    assert len(some) == 7 < len(every)
    assert_alike(some, every[torch.arange(7)], box=0, rest=1e-6)


def test_pictures_come_in_their_order_and_the_mode_is_left(build, noise):
    detector = build("faster", MIRRORED).train()
    pictures = [noise, noise[:40], noise.transpose(1, 0, 2)]
    together = detector.predict(pictures, batch_size=1)
    assert detector.training
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = detector.predict([picture])
        assert_alike(found, alone, box=0, rest=0)
    assert detector.predict([]) == []


def test_sizes_that_the_long_side_makes_equal_are_looked_at_once(build, noise):
    wide = np.concatenate([noise] * 3, axis=1)  # 64 x 240
    once, twice = (
        build("fpn", {"short_sides": sides, "long_side": 120, "flip": False}).predict([wide])[0]
        for sides in [(40,), (40, 60, 80)]
    )
    assert_alike(twice, once, box=0, rest=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"short_sides": []}, "at least one size"),
        ({"short_sides": [64, 64]}, "none twice"),
        ({"short_sides": [64, 0]}, "greater than 0"),
        ({"short_sides": [64, 100], "long_side": 80}, "long_side 80 is below the short side 100"),
    ],
)
def test_views_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        check_settings(ModelConfig, {"test_augmentation": settings})


def test_a_keypoint_without_its_counterpart_is_refused_where_pictures_are_mirrored():
    tree = {"keypoint": {"names": ["left_ear", "nose"]}, "test_augmentation": {"flip": True}}
    with pytest.raises(ConfigError, match="left_ear has no counterpart right_ear"):
        check_settings(ModelConfig, tree)
    tree["test_augmentation"]["flip"] = False
    assert check_settings(ModelConfig, tree).test_augmentation.short_sides[0] == 400
