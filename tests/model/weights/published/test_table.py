"""The table of published weights agrees with torchvision and with the recipes."""

import re
from pathlib import Path

import pytest
import torch
from torchvision.models import detection, get_model_weights, list_models

from model import ModelConfig
from model.config.settings import check_settings
from model.config.yaml_files import compose_yaml
from model.weights import WeightsError
from model.weights.published.selection import find_published
from model.weights.published.table import WORDS, published_weights
from model.weights.storage.weights_file import StoredWeights
from model.weights.torchvision.convert import convert_torchvision

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
ALL = [weights for word in WORDS for weights in published_weights(word)]
OF_TORCHVISION = [weights for weights in ALL if weights.library == "torchvision"]


def model_of(recipe):
    return check_settings(ModelConfig, compose_yaml(CONFIGS / f"{recipe}.yaml").get("model", {}))


def test_the_addresses_of_torchvision_are_its_own():
    addresses = {each.url for name in list_models() for each in get_model_weights(name)}
    assert {weights.address for weights in OF_TORCHVISION} <= addresses


def test_every_file_has_its_own_name_and_the_digest_that_its_name_states():
    names = [weights.file_name for weights in ALL]
    assert len(set(names)) == len(names)
    digits = {"torchvision": r"-[0-9a-f]{8}\.pth$", "detectron2": r"_[0-9a-f]{6}\.pkl$"}
    kinds = {"torchvision": "sha256", "detectron2": "md5"}
    for weights in ALL:
        if weights.library == "Detectron":
            assert weights.digest is None
            continue
        assert re.search(digits[weights.library], weights.file_name)
        assert weights.digest.algorithm == kinds[weights.library]
        assert weights.digest.digits == re.split("[-_]", Path(weights.file_name).stem)[-1]


@pytest.mark.parametrize("weights", ALL, ids=lambda each: f"{each.word} {each.model}")
def test_an_architecture_finds_its_own_weights(weights):
    assert find_published(weights.word, weights.config) == weights


DETECTORS = {
    "Mask R-CNN R50-FPN": "maskrcnn_resnet50_fpn",
    "Mask R-CNN R50-FPN v2": "maskrcnn_resnet50_fpn_v2",
    "Faster R-CNN R50-FPN": "fasterrcnn_resnet50_fpn",
    "Faster R-CNN R50-FPN v2": "fasterrcnn_resnet50_fpn_v2",
    "Keypoint R-CNN R50-FPN": "keypointrcnn_resnet50_fpn",
    "RetinaNet R50-FPN (P6 from P5)": "retinanet_resnet50_fpn",
    "RetinaNet R50-FPN v2": "retinanet_resnet50_fpn_v2",
}


@pytest.mark.parametrize("model", DETECTORS)
def test_the_architecture_of_a_detector_is_that_of_its_builder_in_torchvision(model):
    with torch.device("meta"):
        network = getattr(detection, DETECTORS[model])(weights=None, weights_backbone=None)
    converted = convert_torchvision(StoredWeights(network.state_dict()), ModelConfig())
    published = find_published("coco", converted.config)
    assert (published.model, published.library) == (model, "torchvision")
    assert published.address == get_model_weights(DETECTORS[model]).COCO_V1.url


@pytest.mark.parametrize(
    ("recipe", "backbone", "detector"),
    [
        (
            "mask_rcnn_r50_fpn_1x",
            "resnet50-0676ba61.pth",
            "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        ),
        ("mask_rcnn_r50_c4_1x", "resnet50-0676ba61.pth", "model_final_4ce675.pkl"),
        ("mask_rcnn_r101_fpn_3x", "resnet101-63fe2227.pth", "model_final_a3ec72.pkl"),
        (
            "faster_rcnn_x101_32x8d_fpn_1x",
            "resnext101_32x8d-8ba56ff5.pth",
            "model_final_68b088.pkl",
        ),
        ("coco_2014/mask_rcnn_r50_fpn_1x", "R-50.pkl", "model_final_f10217.pkl"),
        ("coco_2014/mask_rcnn_r101_fpn_1x", "R-101.pkl", "model_final_a3ec72.pkl"),
        ("coco_2014/mask_rcnn_x101_32x8d_fpn_1x", "X-101-32x8d.pkl", "model_final_2d9806.pkl"),
        ("gn_baselines/mask_rcnn_r50_fpn_gn_1x", "R-50-GN.pkl", None),
        ("dcn/mask_rcnn_r50_fpn_mdconv_1x", "resnet50-0676ba61.pth", None),
        ("my_data", "resnet50-0676ba61.pth", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"),
    ],
)
def test_a_recipe_gets_the_weights_that_the_documents_list_for_it(recipe, backbone, detector):
    config = model_of(recipe)
    assert find_published("imagenet", config).file_name == backbone
    if detector is not None:
        assert find_published("coco", config).file_name == detector
        return
    with pytest.raises(WeightsError, match=r"no coco weights .* exist for: Mask R-CNN R50-FPN, "):
        find_published("coco", config)


def test_the_choice_stays_after_conventions_were_adopted_from_the_weights():
    for weights in published_weights("coco"):
        stated = weights.config.model_dump(exclude_unset=True, exclude={"conventions"})
        before = ModelConfig.model_validate(stated)
        chosen = find_published("coco", before)
        adopted = before.conventions.model_copy(
            update=chosen.config.conventions.model_dump(exclude_unset=True)
        )
        after = before.model_copy(update={"conventions": adopted})
        assert find_published("coco", after) == chosen
