"""Who decides the settings of weights of every library and kind: the weights, config or caller.

Weights alone define what belongs to them. A recipe, a config that contradicts every convention,
and the caller's conventions change no more than they may, and one warning names each conflict.
"""

import functools
import re
from typing import Literal, get_args, get_origin

import pytest
import torch

from model import ModelConfig, build_detector
from model.config import KeypointHeadConfig, RetinaNetConfig
from model.config.settings import ConfigError, check_settings
from model.config.yaml_files import compose_yaml
from model.weights import WeightsError, load_network, resolve_config
from model.weights.inference_config import read_for_inference
from model.weights.setting_origins import HEADS, ORIGINS, Origin
from model.weights.stated_settings import has_section, replace_settings, setting_of
from tests.model.weights.detectron2 import zoo
from tests.model.weights.library_cases import (
    CASES,
    CONFIGS,
    LIBRARY_CONVENTIONS,
    RECIPES,
    Case,
    our_config,
    write_weights,
)

CASES_AND_RECIPES = [(case, recipe) for case in CASES for recipe in RECIPES[case.kind]]
parametrize_cases = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Function: case -> path of its weights, and the config that they alone give."""

    @functools.cache
    def make(case):
        path = write_weights(case, tmp_path_factory.mktemp("weights"))
        return path, read_for_inference(path, None)[0].config

    return make


def recipe_tree(recipe):
    return compose_yaml(CONFIGS / f"{recipe}.yaml")["model"]


def narrowed(recipe, alone):
    """Return the recipe's config, with the architecture of the weights where it states its own."""
    config = check_settings(ModelConfig, recipe_tree(recipe))
    return replace_settings(
        config,
        {
            key: setting_of(alone, key)
            for key, origin in ORIGINS.items()
            if origin is Origin.TENSORS and key not in HEADS
            if has_section(config, key) and has_section(alone, key)
        },
    )


def flat(tree):
    """Return the leaves of a tree by dotted key, lists as tuples."""
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, dict) and key != "test_augmentation":
            leaves |= {f"{key}.{name}": leaf for name, leaf in flat(value).items()}
        else:
            leaves[key] = tuple(value) if isinstance(value, list) else value
    return leaves


def resolve(path, config, caplog, **arguments):
    """Return the resolved config, and the keys that the one warning names, or none."""
    caplog.clear()
    resolved = resolve_config(path, config, **arguments)
    assert len(caplog.messages) <= 1
    text = caplog.text
    assert ("settings of the weights are used" in text) == bool(caplog.messages)
    return resolved, set(re.findall(r"^  model\.(\S+) = ", text, re.MULTILINE)), text


def of_weights(config):
    """Return everything that belongs to weights."""
    kept = (Origin.TENSORS, Origin.LIBRARY)
    return {key: setting_of(config, key) for key in ORIGINS if ORIGINS[key] in kept} | {
        head: getattr(config, head) is not None for head in HEADS
    }


def is_read(config, key):
    """Return whether the detector has the part that a setting of it belongs to."""
    if key.startswith("fpn."):
        return config.backbone.features == "fpn"
    return has_section(config, key) and not (key.startswith("rpn.") and config.retinanet)


@parametrize_cases
def test_weights_alone_have_the_conventions_of_their_library(weights, case):
    alone = weights(case)[1]
    assert alone.input.size_divisor == case.divisor
    known = LIBRARY_CONVENTIONS[case.library]
    # Some depend on the kind of model, and are tested beside each library.
    varying = {"stride_in_1x1", "norm_epsilon", "roi_sampling_ratio", "box_smooth_l1_beta"}
    for name in type(known).model_fields.keys() - varying:
        assert getattr(alone.conventions, name) == getattr(known, name)
    ModelConfig.model_validate(alone.model_dump())


@pytest.mark.parametrize(("case", "recipe"), CASES_AND_RECIPES, ids=str)
def test_a_recipe_decides_its_free_settings_alone(weights, case, recipe, caplog):
    path, alone = weights(case)
    config = narrowed(recipe, alone)
    resolved, warned, text = resolve(path, config, caplog)
    assert of_weights(resolved) == of_weights(alone)
    stated = flat(recipe_tree(recipe))
    conflicts = set()
    for key, origin in ORIGINS.items():
        if key in HEADS or not has_section(alone, key):
            continue
        value, own = stated.get(key), setting_of(alone, key)
        if key not in stated or origin is Origin.TENSORS:
            assert setting_of(resolved, key) == own
        elif origin is Origin.LIBRARY:
            if value != own and is_read(alone, key):
                conflicts.add(key)
        elif key != "retinanet.box_loss":  # the tensors of v2 show GIoU
            assert setting_of(resolved, key) == value
    assert warned == conflicts
    # Both values of a conflict.
    for key in conflicts & {"conventions.roi_aligned"}:
        assert f"model.{key} = true (the config: false)" in text
    # A resolved config resolves to itself, and states nothing else than the weights.
    assert resolve(path, resolved, caplog)[:2] == (resolved, set())


def contrary(key, value):
    """Return another valid value of a setting."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        section, _, name = key.partition(".")
        field = type(getattr(ModelConfig(), section) or RetinaNetConfig()).model_fields[name]
        assert get_origin(field.annotation) is Literal
        return next(option for option in get_args(field.annotation) if option != value)
    if isinstance(value, tuple):
        return value[::-1] if isinstance(value[0], str) else tuple(2 * item for item in value)
    return value + 1


def contrary_config(alone):
    """Return a config that states every convention otherwise than the weights have it."""
    sections = {"box": alone.box, "mask": alone.mask, "keypoint": None, "retinanet": None}
    sections["keypoint"] = alone.keypoint and KeypointHeadConfig()
    sections["retinanet"] = alone.retinanet and RetinaNetConfig()
    base = ModelConfig().model_copy(update=sections)
    conventions = [
        key for key in ORIGINS if ORIGINS[key] is Origin.LIBRARY and has_section(alone, key)
    ]
    values = {key: contrary(key, setting_of(alone, key)) for key in conventions}
    return replace_settings(base, values | {"input.short_side": 77}), values


@parametrize_cases
def test_a_config_that_contradicts_every_convention_changes_none(weights, case, caplog):
    path, alone = weights(case)
    config, values = contrary_config(alone)
    resolved, warned, text = resolve(path, config, caplog)
    # Only our own files name keypoints.
    named = {"keypoint.names"} if case.library != "ours" else set()
    expected = of_weights(alone)
    if alone.keypoint and named:
        expected["keypoint.names"] = config.keypoint.names
    assert of_weights(resolved) == expected
    assert resolved.input.short_side == 77
    assert warned - values.keys() <= {k for k in ORIGINS if ORIGINS[k] is Origin.TENSORS}
    assert warned & values.keys() == {key for key in values if is_read(alone, key)} - named
    assert "conventions=" in text
    assert "--convention" in text


@parametrize_cases
@pytest.mark.parametrize("with_config", [False, True], ids=["alone", "with a config"])
def test_stated_conventions_replace_those_of_the_weights(weights, case, with_config, caplog):
    path, alone = weights(case)
    config, values = contrary_config(alone)
    # What tensors show cannot be stated otherwise.
    shown = {"backbone.features", "backbone.norm", "box.pool_side", "keypoint.names"}
    shown |= {"rpn.anchor_ratios", "rpn.anchor_sizes", "retinanet.anchor_ratios"}
    stated = {key: value for key, value in values.items() if key not in shown}
    named = {key.removeprefix("conventions."): value for key, value in stated.items()}
    if with_config:
        resolved, warned, _ = resolve(path, config, caplog, conventions=named)
        assert not warned & stated.keys()
    else:
        resolved = read_for_inference(path, None, named)[0].config
    different = {
        key
        for key, value in of_weights(resolved).items()
        if value != of_weights(alone)[key] and key != "keypoint.names"
    }
    assert different == stated.keys()
    for key, value in stated.items():
        assert setting_of(resolved, key) == value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("backbone.features", "fpn", 'states backbone.features = "fpn", but .* show "c4"'),
        ("retinanet.delta_weights", (1, 1, 1, 1), "has no retinanet head"),
    ],
)
def test_conventions_that_contradict_the_tensors_are_refused(weights, key, value, message):
    path, _ = weights(Case("detectron2", "mask C4", 1, "mask R50 C4"))
    with pytest.raises(WeightsError, match=message):
        read_for_inference(path, None, {key: value})


def test_dilation_and_pooling_that_tensors_do_not_show_can_be_stated(weights):
    path, alone = weights(Case("detectron2", "mask DC5", 1, "mask R50 DC5"))
    assert alone.backbone.features == "dc5"
    stated = {"backbone.features": "c5", "mask.pool_side": 12}
    config = read_for_inference(path, None, stated)[0].config
    assert (config.backbone.features, config.mask.pool_side) == ("c5", 12)
    path, alone = weights(Case("detectron2", "mask C4", 1, "mask R50 C4"))
    assert alone.box.pool_side == 14
    config = read_for_inference(path, None, {"box.pool_side": 8})[0].config
    assert config.box.pool_side == 8


def test_a_head_that_a_config_lacks_or_adds_is_a_conflict(weights, caplog):
    path, alone = weights(Case("detectron2", "mask", 32, "mask R50 FPN"))
    config = ModelConfig.model_validate({"mask": None, "keypoint": {"layers": 4}})
    resolved, warned, text = resolve(path, config, caplog)
    assert warned == {"mask", "keypoint"}
    assert "model.mask = present (the config: null)" in text
    assert "model.keypoint = null (the config: present)" in text
    assert of_weights(resolved) == of_weights(alone)
    # By default there is a mask head, which nobody states.
    path, _ = weights(Case("detectron2", "faster", 32, "faster R101 FPN"))
    assert resolve(path, ModelConfig(), caplog)[1] == set()


def test_anchors_that_a_file_stores_overrule_a_config(tmp_path, caplog):
    state = zoo.make_weights(zoo.ZOO["faster R101 FPN"])
    for level, size in enumerate((20, 40, 80, 160, 320)):
        halves = [(size / ratio**0.5 / 2, size * ratio**0.5 / 2) for ratio in (0.4, 1, 2)]
        name = f"proposal_generator.anchor_generator.cell_anchors.{level}"
        state[name] = torch.tensor([(-width, -height, width, height) for width, height in halves])
    torch.save(state, tmp_path / "model.pth")
    config = ModelConfig(rpn={"anchor_sizes": (16, 32, 64, 128, 256)})
    resolved, warned, _ = resolve(tmp_path / "model.pth", config, caplog)
    assert warned == {"rpn.anchor_sizes"}
    assert resolved.rpn.anchor_sizes == (20, 40, 80, 160, 320)
    assert resolved.rpn.anchor_ratios == (0.4, 1, 2)


def test_our_file_without_its_folder_has_the_conventions_of_the_config(tmp_path, caplog):
    config = our_config("mask")
    torch.save(build_detector(config).state_dict(), tmp_path / "weights.pth")
    path = tmp_path / "weights.pth"
    assert resolve(path, config, caplog) == (config, set(), "")
    stated = {"roi_aligned": not config.conventions.roi_aligned}
    detector = load_network(path, config, conventions=stated)
    assert detector.config.conventions == config.conventions.model_copy(update=stated)


def test_the_conventions_of_the_caller_reach_the_detector(weights):
    path, alone = weights(Case("ours", "faster", 16))
    stated = {"pixel_order": "rgb", "box.delta_weights": [1, 1, 1, 1]}
    detector = load_network(path, conventions=stated, score_threshold=0.3)
    assert detector.config.conventions == alone.conventions.model_copy(
        update={"pixel_order": "rgb"}
    )
    assert detector.config.box.delta_weights == (1, 1, 1, 1)
    with pytest.raises(ConfigError, match="did you mean pixel_order"):
        load_network(path, conventions={"pixel_orde": "rgb"})
