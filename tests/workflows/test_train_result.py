"""What ``train`` prints at its end names the weights that each metric belongs to."""

from pipeline.train.driver import TrainingResult
from workflows.train import format_validations

LAST = {"train/loss": 1.0, "val/bbox/AP": 0.25, "val/segm/AP": 0.2}
BEST = {"val/bbox/AP": 0.5, "val/segm/AP": 0.4}


def result(best_step):
    return TrainingResult("train/step", "run", LAST, 600, None, best_step, BEST)


def test_the_best_metrics_are_named_beside_the_last_ones():
    assert format_validations(result(400)).splitlines() == [
        "last (step 600)",
        "bbox/AP     0.25",
        "segm/AP     0.2",
        "best (step 400)",
        "bbox/AP     0.5",
        "segm/AP     0.4",
    ]


def test_metrics_of_the_last_weights_are_not_repeated_if_they_are_the_best_or_the_only_ones():
    for best_step in (600, None):
        assert format_validations(result(best_step)).splitlines() == [
            "bbox/AP     0.25",
            "segm/AP     0.2",
        ]
