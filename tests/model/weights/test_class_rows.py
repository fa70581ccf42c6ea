"""Fine-tuning: classes of the same name keep their weights."""

import pytest
import torch
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from model import Category, build_detector, save_detector
from model.weights import WeightsError, load_weights
from model.weights.class_rows import rows_by_name
from model.weights.classes import coco_categories, sparse_coco_categories

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


def randomised(detector):
    for parameter in detector.parameters():
        torch.nn.init.normal_(parameter)
    return detector


def test_person_keeps_its_rows_from_coco_to_cityscapes(build, tmp_path):
    coco = randomised(build(coco_categories()))
    save_detector(coco, tmp_path)
    ours = randomised(build(named(*CITYSCAPES)))
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    report = load_weights(ours, tmp_path)
    assert report.fresh_classes == ("rider",)
    assert report.kept_classes == tuple(n for n in CITYSCAPES if n != "rider")
    assert "classes left at initialisation: 1 (rider)" in str(report)
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
    sparse = randomised(build(sparse_coco_categories()))
    save_detector(sparse, tmp_path)
    ours = build(coco_categories())
    report = load_weights(ours, tmp_path)
    assert (len(report.kept_classes), report.fresh_classes) == (80, ())
    for label, category in enumerate(ours.categories, start=1):
        for layer in LAYERS:
            for mine, theirs in zip(
                rows(ours, layer, label), rows(sparse, layer, category.id), strict=True
            ):
                assert mine.equal(theirs)


def test_as_many_classes_of_other_names_are_not_taken_for_the_same(build, tmp_path):
    save_detector(randomised(build(named("cat", "dog", "owl"))), tmp_path)
    ours = build(named("dog", "cat", "fox"))
    before = rows(ours, "roi_heads.box.class_logits", 3)[0].clone()
    report = load_weights(ours, tmp_path)
    assert (report.kept_classes, report.fresh_classes) == (("dog", "cat"), ("fox",))
    assert rows(ours, "roi_heads.box.class_logits", 3)[0].equal(before)


def test_without_names_rows_stand_where_they_stood(build, tmp_path):
    source = randomised(build(named("cat", "dog", "owl")))
    save_detector(source, tmp_path)
    unnamed = build_detector(source.config)
    assert load_weights(unnamed, tmp_path).kept_classes == ()
    assert unnamed.roi_heads.box.class_logits.weight.equal(source.roi_heads.box.class_logits.weight)


def test_surgery_can_be_refused(build, tmp_path):
    save_detector(build(named("cat", "dog")), tmp_path)
    with pytest.raises(WeightsError, match=r"class_logits\.weight \(4, 64\) <- \(3, 64\)"):
        load_weights(build(named("cat", "dog", "owl")), tmp_path, allow_mismatch=False)


def test_names_that_occur_twice_are_nobody_s():
    theirs = named("N/A", "cat", "N/A", "Dog ")
    own = {"roi_heads.mask.logits.bias": torch.zeros(4)}
    file = {"roi_heads.mask.logits.bias": torch.arange(5.0)}
    result = rows_by_name(file, own, theirs, named("N/A", "dog", "cat"))
    assert result.tensors["roi_heads.mask.logits.bias"].tolist() == [0, 0, 4, 2]
    assert (result.kept, result.fresh) == (("dog", "cat"), ("N/A",))


def test_layers_of_another_width_are_left_to_the_shape_check():
    own = {"roi_heads.mask.logits.weight": torch.zeros(2, 16, 1, 1)}
    file = {"roi_heads.mask.logits.weight": torch.ones(3, 8, 1, 1)}
    assert not rows_by_name(file, own, named("a", "b"), named("a")).tensors


def test_the_classes_of_coco_are_torchvisions():
    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert [tuple(one) for one in sparse_coco_categories()] == list(enumerate(names))[1:]
    assert len(coco_categories()) == 80
