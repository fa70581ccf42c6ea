"""The rules of a promotion: what speaks for a version and what against it, each in a sentence.

Every rule compares a version with the champion on the same data. The rules only see numbers; who
measures them is decided elsewhere.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One reason for or against a promotion."""

    speaks_for: bool
    text: str


@dataclass(frozen=True)
class ClassValue:
    """The AP of a class, -1 if it cannot be measured, and the number of its objects."""

    ap: float
    objects: int


@dataclass(frozen=True)
class Latency:
    """Times of two detectors on the same images.

    Args:
        own_ms: median time per image of the version, milliseconds.
        champion_ms: that of the champion, measured in turns with it.
        machine: the type of the machine, and how it was measured.
    """

    own_ms: float
    champion_ms: float
    machine: str


def is_measured(value: float) -> bool:
    """Return whether a metric has a value: pycocotools' -1 and NaN are none."""
    return math.isfinite(value) and value != -1


def judge_minimum(metric: str, value: float, minimum: float) -> Finding:
    """Compare a metric with the lowest value that a champion may have."""
    if value < minimum:
        text = f"{metric} {value:.4f} is below track.champion_minimum {minimum:g}"
        return Finding(False, text)
    return Finding(True, f"{metric} {value:.4f} is at least {minimum:g}")


def judge_metric(
    metric: str, value: float, champion: str, champion_value: float, margin: float
) -> Finding:
    """Compare the metric that decides; equal values do not beat each other."""
    # Rounded, so that 0.31 beats 0.30 by 0.01 and not by slightly more.
    is_better = value > champion_value and round(value - champion_value, 9) > margin
    verb = "beats" if is_better else "does not beat"
    text = f"{metric} {value:.4f} {verb} {champion_value:.4f} of champion {champion}"
    return Finding(is_better, f"{text} by more than {margin:g}" if margin else text)


def judge_classes(
    own: Mapping[str, ClassValue],
    champion: Mapping[str, ClassValue],
    max_drop: float,
    min_objects: int,
) -> Finding:
    """Compare the AP of each class that has enough objects and that both detectors know.

    Args:
        own: class name -> AP of the version.
        champion: likewise of the champion.
        max_drop: how much worse a class may be.
        min_objects: classes with fewer objects are left out.
    """
    drops = {
        name: champion[name].ap - value.ap
        for name, value in own.items()
        if value.objects >= min_objects
        and is_measured(value.ap)
        and name in champion
        and is_measured(champion[name].ap)
    }
    if not drops:
        return Finding(
            False,
            f"no class can be compared: none has {min_objects} objects and an AP of both "
            "(track.promotion.min_class_objects)",
        )
    name = max(drops, key=lambda each: drops[each])
    values = f"{name}: {champion[name].ap:.4f} -> {own[name].ap:.4f}"
    worse = [each for each, drop in drops.items() if round(drop, 9) > max_drop]
    if worse:
        count = "1 class is" if len(worse) == 1 else f"{len(worse)} classes are"
        return Finding(False, f"{count} worse by more than {max_drop:g} (most: {values})")
    return Finding(True, f"none of {len(drops)} classes is worse by more than {max_drop:g}")


def judge_latency(latency: Latency, max_slowdown: float) -> Finding:
    """Compare the times per image."""
    ratio = latency.own_ms / latency.champion_ms
    text = (
        f"{latency.own_ms:.1f} ms per image against {latency.champion_ms:.1f} ms of the champion, "
        f"ratio {ratio:.2f}, allowed {max_slowdown:g} ({latency.machine})"
    )
    return Finding(ratio <= max_slowdown, text)


def judge_interval(metric: str, low: float, high: float, confidence: float, images: int) -> Finding:
    """Compare the interval of the difference, of a paired bootstrap over images, with 0.

    Args:
        metric: name of the metric.
        low: lower end of the interval of the difference, version minus champion.
        high: its upper end.
        confidence: of the interval.
        images: number of images.
    """
    text = (
        f"the {100 * confidence:g}% interval of the difference in {metric} is "
        f"[{low:+.4f}, {high:+.4f}] (paired bootstrap over {images} images)"
    )
    return Finding(low > 0, text)  # also False for NaN
