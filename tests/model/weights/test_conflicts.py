from model import ModelConfig
from model.config.settings import check_settings
from model.weights.conflicts import (
    Conflict,
    describe_overruled_config,
    describe_overruled_weights,
    find_conflicts,
)


def conflicts(config, of_weights=None, resolved=()):
    used = check_settings(ModelConfig, of_weights or {})
    return find_conflicts(check_settings(ModelConfig, config), used, resolved)


def test_only_stated_settings_with_another_value_conflict():
    assert conflicts({}) == ()
    assert conflicts({}, {"conventions": {"roi_aligned": False}, "num_classes": 3}) == ()
    assert conflicts({"conventions": {"roi_aligned": True}, "num_classes": 80}) == ()
    assert conflicts({"conventions": {"roi_aligned": False}}) == (
        Conflict("conventions.roi_aligned", True, False),
    )
    assert conflicts({"num_classes": 3}) == (Conflict("num_classes", 80, 3),)


def test_a_synchronized_batch_norm_is_a_batch_norm_in_inference():
    norms = {"backbone": {"norm": "sync_batch_norm"}, "fpn": {"norm": "sync_batch_norm"}}
    plain = {"backbone": {"norm": "batch_norm"}, "fpn": {"norm": "batch_norm"}}
    assert conflicts(norms, plain) == conflicts(plain, norms) == ()
    assert len(conflicts(norms, {"backbone": {"norm": "group_norm"}})) == 2


def test_settings_of_training_and_of_absent_parts_do_not_conflict():
    assert conflicts({"backbone": {"frozen_stages": 0}, "rpn": {"positive_iou": 0.6}}) == ()
    c4 = {"backbone": {"features": "c4"}, "box": {"pool_side": 14}, "mask": {"layers": 0}}
    assert conflicts(c4 | {"fpn": {"channels": 64}}, c4) == ()
    one_stage = {"retinanet": {}, "box": None, "mask": None}
    stated = one_stage | {"rpn": {"anchor_ratios": [1]}}
    assert conflicts(stated, one_stage) == ()


def test_settings_that_were_resolved_otherwise_do_not_conflict():
    stated = {"conventions": {"roi_aligned": False}, "num_classes": 3}
    [left] = conflicts(stated, resolved=["conventions.roi_aligned"])
    assert left.key == "num_classes"


def test_the_warning_names_both_values_and_how_to_state_one():
    stated = {"num_classes": 3, "box": {"delta_weights": [1, 1, 1, 1]}, "mask": None}
    lines = describe_overruled_config(conflicts(stated)).splitlines()
    assert "The settings of the weights are used:" in lines[0]
    assert lines[1:4] == [
        "  model.mask = present (the config: null)",
        "  model.num_classes = 80 (the config: 3)",
        "  model.box.delta_weights = [10.0, 10.0, 5.0, 5.0] (the config: [1.0, 1.0, 1.0, 1.0])",
    ]
    assert "conventions={'box.delta_weights': (1.0, 1.0, 1.0, 1.0)}" in lines[4]
    assert "--convention 'box.delta_weights=[1.0, 1.0, 1.0, 1.0]'" in lines[4]


def test_what_tensors_show_cannot_be_stated():
    stated = conflicts({"num_classes": 3, "backbone": {"norm": "group_norm"}})
    assert len(stated) == 2
    assert "state it" not in describe_overruled_config(stated)


def test_converted_settings_need_no_advice():
    converted = Conflict("conventions.pixel_order", "bgr", "rgb", converted=True)
    lines = describe_overruled_weights([converted]).splitlines()
    assert "The settings of the detector are used:" in lines[0]
    assert lines[1:] == ['  model.conventions.pixel_order = "rgb" (the weights: "bgr"; converted)']
    other = Conflict("conventions.roi_aligned", False, True)
    lines = describe_overruled_weights([converted, other]).splitlines()
    assert lines[2] == "  model.conventions.roi_aligned = true (the weights: false)"
    assert "adopts all of model.conventions that its config does not state" in lines[3]
