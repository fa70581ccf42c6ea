"""Fine-tuning on other classes: classes of the same name keep their weights."""

import pytest
import torch

from model import Category, build_detector, save_detector
from model.weights import WeightsError, load_weights
from model.weights.class_rows import match_class_rows
from model.weights.coco_categories import coco_categories, sparse_coco_categories

CITYSCAPES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
LAYERS = {
    "roi_heads.box.class_logits": 1,
    "roi_heads.box.box_deltas": 4,
    "roi_heads.mask.logits": 1,
}


def named(*names):
    return [Category(i, name) for i, name in enumerate(names, start=1)]


@pytest.fixture
def build(tiny_config):
    def build(categories):
        return build_detector(tiny_config(num_classes=len(categories)), categories)

    return build


def rows(detector, layer, label):
    per_class = LAYERS[layer]
    state = detector.state_dict()
    return [
        state[f"{layer}.{kind}"][label * per_class : (label + 1) * per_class]
        for kind in ("weight", "bias")
    ]


def randomized(detector):
    for parameter in detector.parameters():
        torch.nn.init.normal_(parameter)
    return detector


def test_person_keeps_its_rows_from_coco_to_cityscapes(build, tmp_path):
    coco = randomized(build(coco_categories()))
    save_detector(coco, tmp_path)
    ours = randomized(build(named(*CITYSCAPES)))
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    report = load_weights(ours, tmp_path)
    assert report.new_classes == ("rider",)
    assert report.kept_classes == tuple(n for n in CITYSCAPES if n != "rider")
    assert "new classes, left at initialization: 1 (rider)" in str(report)
    their_label = {c.name: label for label, c in enumerate(coco.categories, start=1)}
    for layer, per_class in LAYERS.items():
        for label, name in enumerate(("background", *CITYSCAPES)):
            origin = 0 if label == 0 else their_label.get(name)
            for kind, row in zip(("weight", "bias"), rows(ours, layer, label), strict=True):
                if origin is None:
                    start = label * per_class
                    assert row.equal(before[f"{layer}.{kind}"][start : start + per_class])
                else:
                    index = 0 if kind == "weight" else 1
                    assert row.equal(rows(coco, layer, origin)[index])
    assert ours.fpn.lateral[0].weight.equal(coco.fpn.lateral[0].weight)


def test_ninety_sparse_ids_become_eighty_classes(build, tmp_path):
    sparse = randomized(build(sparse_coco_categories()))
    save_detector(sparse, tmp_path)
    ours = build(coco_categories())
    report = load_weights(ours, tmp_path)
    assert (len(report.kept_classes), report.new_classes) == (80, ())
    for label, category in enumerate(ours.categories, start=1):
        for layer in LAYERS:
            for actual, expected in zip(
                rows(ours, layer, label), rows(sparse, layer, category.id), strict=True
            ):
                assert actual.equal(expected)


def test_an_equal_number_of_other_classes_is_not_taken_for_the_same_classes(build, tmp_path):
    save_detector(randomized(build(named("cat", "dog", "owl"))), tmp_path)
    ours = build(named("dog", "cat", "fox"))
    before = rows(ours, "roi_heads.box.class_logits", 3)[0].clone()
    report = load_weights(ours, tmp_path)
    assert (report.kept_classes, report.new_classes) == (("dog", "cat"), ("fox",))
    assert rows(ours, "roi_heads.box.class_logits", 3)[0].equal(before)


def test_without_names_rows_keep_their_order(build, tmp_path):
    source = randomized(build(named("cat", "dog", "owl")))
    save_detector(source, tmp_path)
    unnamed = build_detector(source.config)
    assert load_weights(unnamed, tmp_path).kept_classes == ()
    assert unnamed.roi_heads.box.class_logits.weight.equal(source.roi_heads.box.class_logits.weight)


def test_matching_by_name_can_be_refused(build, tmp_path):
    save_detector(build(named("cat", "dog")), tmp_path)
    message = r"class_logits\.weight is \(4, 64\) in the detector, \(3, 64\) in the file"
    with pytest.raises(WeightsError, match=message):
        load_weights(build(named("cat", "dog", "owl")), tmp_path, allow_mismatch=False)


def test_names_that_occur_twice_are_not_matched():
    theirs = named("N/A", "cat", "N/A", "Dog ")
    own = {"roi_heads.mask.logits.bias": torch.zeros(4)}
    file = {"roi_heads.mask.logits.bias": torch.arange(5.0)}
    result = match_class_rows(file, own, theirs, named("N/A", "dog", "cat"))
    assert result.tensors["roi_heads.mask.logits.bias"].tolist() == [0, 0, 4, 2]
    assert (result.kept, result.new) == (("dog", "cat"), ("N/A",))


def test_layers_of_another_width_are_left_to_the_shape_check():
    own = {"roi_heads.mask.logits.weight": torch.zeros(2, 16, 1, 1)}
    file = {"roi_heads.mask.logits.weight": torch.ones(3, 8, 1, 1)}
    assert not match_class_rows(file, own, named("a", "b"), named("a")).tensors


def test_other_classes_keep_the_keypoint_head(tiny_config, keypoint_head, tmp_path):
    def build(*names, **changes):
        config = tiny_config(num_classes=len(names), mask=None, keypoint=keypoint_head | changes)
        return build_detector(config, named(*names))

    source, ours = build("person"), build("cat", "person", "dog")
    save_detector(source, tmp_path)
    report = load_weights(ours, tmp_path)
    assert report.kept_classes == ("person",)
    for own, other in zip(
        ours.roi_heads.keypoint.parameters(), source.roi_heads.keypoint.parameters(), strict=True
    ):
        assert own.equal(other)
    message = r"keypoint\.upsample\.weight is \(16, 1, 4, 4\) in the detector, \(16, 3"
    with pytest.raises(WeightsError, match=message):
        load_weights(build("person", names=("nose",)), tmp_path)


def test_a_class_of_retinanet_keeps_its_rows_of_every_anchor(build_retinanet, tmp_path):
    source, ours = build_retinanet("cat", "dog", "owl"), build_retinanet("fox", "owl", "cat", "yak")
    save_detector(source, tmp_path)
    before = ours.retinanet.class_logits.weight.clone().view(9, 4, 32, 3, 3)
    report = load_weights(ours, tmp_path)
    assert (report.kept_classes, report.new_classes) == (("owl", "cat"), ("fox", "yak"))
    theirs = source.retinanet.class_logits
    weight = theirs.weight.view(9, 3, 32, 3, 3)
    after = ours.retinanet.class_logits.weight.view(9, 4, 32, 3, 3)
    assert after[:, 1].equal(weight[:, 2])
    assert after[:, 2].equal(weight[:, 0])
    assert after[:, [0, 3]].equal(before[:, [0, 3]])
    bias = ours.retinanet.class_logits.bias.view(9, 4)
    assert bias[:, [2, 1]].equal(theirs.bias.view(9, 3)[:, [0, 2]])
    assert ours.retinanet.box_deltas.weight.equal(source.retinanet.box_deltas.weight)


def test_classes_of_retinanet_without_a_common_name_stay_at_initialization(
    build_retinanet, tmp_path
):
    save_detector(build_retinanet("cat", "dog", "owl"), tmp_path)
    ours = build_retinanet("fox")
    before = ours.retinanet.class_logits.bias.clone()
    assert load_weights(ours, tmp_path).new_classes == ("fox",)
    assert ours.retinanet.class_logits.bias.equal(before)
    with pytest.raises(WeightsError, match=r"retinanet\.class_logits\.weight"):
        load_weights(ours, tmp_path, allow_mismatch=False)
