"""Losses, gradients and detections equal those recorded before the code was reorganized."""

import json
from pathlib import Path

import pytest

from tests.golden.cases import CASES, measure_case, measure_training, portable

RECORDED = json.loads(Path(__file__).with_name("golden.json").read_text())
# Processors sum in different orders. Weights that spread the scores amplify that by about 100.
TOLERANCE = 1e-3


def test_every_case_is_recorded():
    assert RECORDED.keys() == {*CASES, "training"}


@pytest.mark.parametrize("name", CASES)
def test_a_case_computes_what_was_recorded(name):
    measured, recorded = portable(measure_case(name)), RECORDED[name]
    assert measured["weights"] == recorded["weights"], "weights have other names or shapes"
    assert measured["gradient_norm"] == pytest.approx(recorded["gradient_norm"], rel=TOLERANCE)
    assert measured["losses"].keys() == recorded["losses"].keys()
    for term, value in recorded["losses"].items():
        assert measured["losses"][term] == pytest.approx(value, rel=TOLERANCE, abs=1e-5), term
    for kind in ("forward", "predict"):
        for image, expected in zip(measured[kind], recorded[kind], strict=True):
            assert_same_detections(image, expected)


def test_the_training_loop_takes_the_recorded_steps():
    measured, recorded = measure_training()["steps"], RECORDED["training"]["steps"]
    for step, expected in zip(measured, recorded, strict=True):
        # Later steps see the rounding of earlier ones.
        assert step == pytest.approx(expected, rel=10 * TOLERANCE)


def assert_same_detections(measured, expected):
    # A score at a threshold may fall on either side of it on another processor.
    assert abs(measured["count"] - expected["count"]) <= 1
    assert measured["labels"] == expected["labels"]
    assert measured["scores"] == pytest.approx(expected["scores"], rel=TOLERANCE, abs=TOLERANCE)
    for box, expected_box in zip(measured["boxes"], expected["boxes"], strict=True):
        assert box == pytest.approx(expected_box, abs=0.05)
    if expected["mask_mean"] is not None:
        assert measured["mask_mean"] == pytest.approx(expected["mask_mean"], abs=TOLERANCE)
