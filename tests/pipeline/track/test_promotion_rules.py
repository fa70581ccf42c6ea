"""Each rule says in a sentence what speaks for a version or against it."""

import pytest

from pipeline.track.promotion_rules import (
    ClassValue,
    Latency,
    judge_classes,
    judge_interval,
    judge_latency,
    judge_metric,
)


def classes(**values):
    return {name: ClassValue(ap, 20) for name, ap in values.items()}


@pytest.mark.parametrize(
    ("value", "margin", "is_better"),
    [(0.31, 0.0, True), (0.30, 0.0, False), (0.31, 0.01, False), (0.3101, 0.01, True)],
)
def test_the_metric_must_be_higher_by_more_than_the_margin(value, margin, is_better):
    finding = judge_metric("segm/AP", value, "3", 0.30, margin)
    assert finding.speaks_for == is_better
    assert f"{value:.4f} {'beats' if is_better else 'does not beat'} 0.3000 of" in finding.text


def test_a_class_that_is_much_worse_is_named():
    champion = classes(star=0.5, disc=0.6, ring=0.2)
    good = judge_classes(classes(star=0.45, disc=0.7, ring=0.2), champion, 0.05, 10)
    assert (good.speaks_for, good.text) == (True, "none of 3 classes is worse by more than 0.05")
    bad = judge_classes(classes(star=0.4, disc=0.5, ring=0.9), champion, 0.05, 10)
    assert not bad.speaks_for
    assert bad.text == "2 classes are worse by more than 0.05 (most: star: 0.5000 -> 0.4000)"


def test_classes_that_cannot_be_compared_are_left_out():
    champion = classes(star=0.5, disc=-1.0)
    own = {
        "star": ClassValue(0.1, objects=9),
        "disc": ClassValue(0.4, 20),
        "new": ClassValue(0.4, 20),
    }
    finding = judge_classes(own, champion, 0.05, 10)
    assert not finding.speaks_for
    assert finding.text.startswith("no class can be compared")
    assert not judge_classes(own, champion, 0.05, 9).speaks_for


def test_the_lower_bound_of_the_difference_must_be_above_zero():
    assert judge_interval("segm/AP", 0.001, 0.02, 0.95, 80).speaks_for
    assert not judge_interval("segm/AP", 0.0, 0.02, 0.95, 80).speaks_for
    text = judge_interval("segm/AP", -0.01, 0.03, 0.9, 80).text
    assert text == (
        "the 90% interval of the difference in segm/AP is [-0.0100, +0.0300] (paired bootstrap "
        "over 80 images)"
    )


def test_a_slower_version_names_both_times_and_the_machine():
    latency = Latency(own_ms=120.0, champion_ms=100.0, machine="a CPU, 2 threads")
    assert judge_latency(latency, 1.2).speaks_for
    slow = judge_latency(latency, 1.1)
    assert not slow.speaks_for
    assert slow.text == (
        "120.0 ms per image against 100.0 ms of the champion, ratio 1.20, allowed 1.1 "
        "(a CPU, 2 threads)"
    )
