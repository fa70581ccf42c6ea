"""What MMDetection's checkpoints hold beside the weights, and what is refused."""

import numpy as np
import pytest
import torch

from model import load_detector
from model.weights import WeightsError, load_network
from model.weights.inference_config import read_for_inference
from model.weights.load import read_detector
from tests.model.weights.mmdetection.training_configs import as_text, version_2, version_3
from tests.model.weights.mmdetection.zoo import ZOO, make_weights

COLORS = ("red", "green", "blue", "black", "white")
VERSIONS = {"2": ("config", version_2), "3": ("cfg", version_3)}
CHANGED = {
    "roi_head.bbox_roi_extractor.roi_layer.sampling_ratio": 2,
    "roi_head.mask_roi_extractor.roi_layer.sampling_ratio": 2,
    "roi_head.bbox_head.bbox_coder.target_stds": [0.5, 0.5, 0.25, 0.25],
    "rpn_head.anchor_generator.scales": [4],
    "rpn_head.anchor_generator.ratios": [0.4, 1.0, 2.5],
    "rpn_head.loss_bbox": {"type": "SmoothL1Loss", "beta": 0.25},
    "test_cfg.rpn.nms_pre": 500,
    "test_cfg.rpn.max_per_img": 300,
    "test_cfg.rpn.nms.iou_threshold": 0.6,
    "test_cfg.rcnn.score_thr": 0.2,
    "test_cfg.rcnn.nms.iou_threshold": 0.45,
    "test_cfg.rcnn.max_per_img": 50,
    "test_cfg.rcnn.mask_thr_binary": 0.4,
    "train_cfg.rpn_proposal.max_per_img": 700,
}


def set_at(tree, path, value):
    *parents, last = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value


def save(path, name="mask R50", state=None, **meta):
    weights = make_weights(ZOO[name]) if state is None else state
    torch.save({"state_dict": weights, "meta": meta, "optimizer": {"state": {}}}, path)
    return path


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["mask R50", "mask R50 caffe", "mask C4", "RetinaNet caffe"])
def test_a_published_training_config_states_what_is_assumed_without_it(tmp_path, name, version):
    key, write = VERSIONS[version]
    model = ZOO[name]
    assumed = read_for_inference(save(tmp_path / "a.pth", name), None)[0]
    text = as_text(write(model))
    read = read_for_inference(save(tmp_path / "b.pth", name, **{key: text}), None)[0]
    assert read.config == assumed.config
    assert any("training config" in note for note in assumed.assumptions)
    assert not read.assumptions


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_training_config_states_is_used(tmp_path, version):
    key, write = VERSIONS[version]
    tree = write(ZOO["mask R50"], size=(640, 400))
    for path, value in CHANGED.items():
        set_at(tree["model"], path, value)
    config = load_network(save(tmp_path / "m.pth", **{key: as_text(tree)})).config
    assert (config.input.short_side, config.input.long_side) == (400, 640)
    conventions, rpn, box = config.conventions, config.rpn, config.box
    assert (conventions.roi_sampling_ratio, conventions.rpn_smooth_l1_beta) == (2, 0.25)
    assert rpn.anchor_sizes == (16, 32, 64, 128, 256)
    assert rpn.anchor_ratios == (0.4, 1.0, 2.5)
    assert (rpn.pre_nms_test, rpn.post_nms_test, rpn.nms_iou) == (500, 300, 0.6)
    assert rpn.post_nms_train == 700
    assert box.delta_weights == (2, 2, 4, 4)
    assert (box.score_threshold, box.nms_iou, box.detections_per_image) == (0.2, 0.45, 50)
    assert config.mask.threshold == 0.4


def test_the_limits_of_early_versions_have_other_names(tmp_path):
    tree = version_2(ZOO["mask R50"])
    del tree["model"]["test_cfg"]
    tree["test_cfg"] = {
        "rpn": {"nms_pre": 800, "max_num": 400, "nms_thr": 0.65},
        "rcnn": {"score_thr": 0.1, "nms": {"type": "nms", "iou_thr": 0.4}, "max_per_img": 60},
    }
    config = load_network(save(tmp_path / "m.pth", config=as_text(tree))).config
    assert (config.rpn.pre_nms_test, config.rpn.post_nms_test) == (800, 400)
    assert config.rpn.nms_iou == 0.65
    assert (config.box.nms_iou, config.box.detections_per_image) == (0.4, 60)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("backbone.conv_cfg", {"type": "ConvWS"}, "convolution 'ConvWS' is not supported"),
        ("neck.type", "mmdet.PAFPN", "neck 'PAFPN'"),
        ("rpn_head.anchor_generator.type", "LegacyAnchorGenerator", "anchors 'LegacyAnchor"),
        ("rpn_head.anchor_generator.center_offset", 0.5, "offset of the anchors 0.5"),
        ("rpn_head.anchor_generator.scales", [4, 8], "2 scales on each of 5 levels"),
        ("rpn_head.anchor_generator.strides", [4, 8, 16, 32], "an RPN on 4 levels"),
        ("rpn_head.bbox_coder.target_stds", [1.0, 1.0, 1.0, 2.0], "an RPN with the delta weights"),
        ("roi_head.bbox_head.bbox_coder.type", "TBLRBBoxCoder", "box coder 'TBLRBBoxCoder'"),
        ("roi_head.bbox_head.bbox_coder.target_stds", [0.1, 0.0, 0.2, 0.2], "deviations"),
        ("roi_head.bbox_head.bbox_coder.target_means", [0.1] * 4, "means"),
        ("roi_head.bbox_roi_extractor.type", "GenericRoIExtractor", "choice of pyramid levels"),
        ("roi_head.mask_roi_extractor.roi_layer.sampling_ratio", 2, "another sampling_ratio"),
        ("test_cfg.rcnn.score_thr", 5, r"score_threshold: .* less than or equal to 1"),
        ("data_preprocessor", {"mean": [1, 2], "std": [1, 2]}, "pixel_mean"),
    ],
)
def test_models_with_other_math_behind_the_same_names_are_refused(tmp_path, path, value, message):
    tree = version_2(ZOO["mask R50"])
    set_at(tree["model"], path, value)
    with pytest.raises(WeightsError, match=message):
        read_detector(save(tmp_path / "m.pth", config=as_text(tree)))


def test_differences_in_testing_are_noted(tmp_path):
    tree = version_3(ZOO["mask R50"])
    set_at(tree["model"], "test_cfg.rcnn.nms.type", "soft_nms")
    tree["test_dataloader"]["dataset"]["pipeline"][0]["keep_ratio"] = False
    _, report = read_detector(save(tmp_path / "m.pth", cfg=as_text(tree)))
    assert any("soft_nms" in note for note in report.notes)
    assert any("aspect ratio" in note for note in report.notes)


def test_a_config_of_the_user_replaces_thresholds_but_no_convention(tmp_path, caplog):
    path = save(tmp_path / "m.pth", config=as_text(version_2(ZOO["mask R50 caffe"])))
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {box: {score_threshold: 0.3}, conventions: {pixel_order: rgb}, num_classes: 5}"
    )
    loaded = load_network(path, config).config
    assert (loaded.box.score_threshold, loaded.conventions.pixel_order) == (0.3, "bgr")
    assert 'model.conventions.pixel_order = "bgr" (the config: "rgb")' in caplog.text
    loaded = load_network(path, config, conventions={"pixel_order": "rgb"}).config
    assert loaded.conventions.pixel_order == "rgb"


@pytest.mark.parametrize(
    "text", ["def f(:", "x" * 400_000, 7, "model = 3", "a\0b", "model = " + "[" * 500, "-" * 9000]
)
def test_a_training_config_that_cannot_be_read_is_reported(tmp_path, text):
    _, report = read_detector(save(tmp_path / "m.pth", config=text))
    assert any("training config cannot be read" in note for note in report.notes)


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": COLORS},
        {"dataset_meta": {"CLASSES": COLORS}},
        {"dataset_meta": {"classes": list(COLORS), "palette": [(1, 2, 3)]}},
    ],
)
def test_classes_have_the_names_in_the_file(tmp_path, meta):
    detector = load_network(save(tmp_path / "m.pth", **meta))
    assert [category.name for category in detector.categories] == list(COLORS)
    assert [category.id for category in detector.categories] == [1, 2, 3, 4, 5]


def test_names_of_another_number_of_classes_are_not_used(tmp_path):
    detector = load_network(save(tmp_path / "m.pth", CLASSES=("a", "b"), dataset_meta="x"))
    assert [category.name for category in detector.categories][:2] == ["class_1", "class_2"]


def test_coco_classes_get_the_ids_of_coco(tmp_path):
    from model.weights.coco_categories import coco_categories
    from tests.model.weights.mmdetection.zoo import Model

    names = tuple(category.name for category in coco_categories())
    state = make_weights(Model(classes=80))
    detector = load_network(save(tmp_path / "m.pth", state=state, CLASSES=names))
    assert list(detector.categories) == coco_categories()


def one(name):
    return {name: torch.ones(3)}


def without(part):
    return lambda weights: {n: t for n, t in weights.items() if part not in n}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | one("roi_head.bbox_head.0.fc_cls.weight"), "Cascade R-CNN"),
        (lambda w: w | one("roi_head.mask_iou_head.fcs.0.weight"), "Mask Scoring"),
        (lambda w: w | one("backbone.stem.0.weight"), "deep stem"),
        (lambda w: w | one("backbone.stages.0.blocks.0.norm1.weight"), "Swin"),
        (lambda w: w | one("neck.pafpn_convs.0.conv.weight"), "PAFPN"),
        (lambda w: w | one("bbox_head.fc_cls.weight"), "MMDetection 1 are not supported"),
        (without("backbone.conv1"), "no ResNet"),
        (without("rpn_head."), r"no region proposal network \(Fast R-CNN"),
        (without("fpn_convs"), "no feature pyramid"),
        (lambda w: w | {"backbone.conv1.weight": torch.tensor(1.0)}, "must have 4 dimensions"),
        (lambda w: w | {"rpn_head.rpn_cls.weight": torch.ones(4, 32, 1, 1)}, "4 anchors per cell"),
        (lambda w: w | {"roi_head.bbox_head.fc_reg.weight": torch.ones(8, 24)}, "8 rows|12 rows"),
    ],
)
def test_unsupported_models_are_refused(tmp_path, change, message):
    state = change(make_weights(ZOO["mask R50"]))
    with pytest.raises(WeightsError, match=message):
        load_network(save(tmp_path / "m.pth", state=state))


def test_a_tensor_that_has_no_place_is_an_error(tmp_path):
    state = make_weights(ZOO["mask R50"]) | one("roi_head.bbox_head.extra.weight")
    with pytest.raises(WeightsError, match=r"extra\.weight is not used by the detector"):
        load_network(save(tmp_path / "m.pth", state=state))


def test_images_are_predicted(tmp_path):
    path = save(tmp_path / "m.pth", CLASSES=COLORS, cfg=as_text(version_3(ZOO["mask R50"])))
    detector = load_detector(path, short_side=64, score_threshold=0.0)
    detections = detector.predict(np.zeros((40, 60, 3), np.uint8))
    assert len(detections) and detections.bitmaps().shape[1:] == (40, 60)
