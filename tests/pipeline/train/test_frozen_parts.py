"""A training refuses frozen norms without weights; needs no cluster, unlike ``test_driver.py``."""

from pathlib import Path

import pytest

from pipeline.config import RunConfig, load_config
from pipeline.train.failures import TrainingError
from pipeline.train.start_checks import check_frozen_parts

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def test_frozen_stages_without_weights_give_a_warning(caplog, tmp_path):
    config = RunConfig.model_validate(
        {"output": str(tmp_path), "model": {"backbone": {"norm": "group_norm"}}}
    )
    check_frozen_parts(config)
    [record] = caplog.records
    assert "frozen_stages is 2 but train.weights is not set" in record.getMessage()


def test_every_recipe_with_frozen_norms_needs_weights(tmp_path):
    """Recipes leave train.weights empty: they load, but only some train as they are."""
    from_scratch = set()
    for path in sorted(CONFIGS.rglob("*.yaml")):
        config = load_config(path, [f"output={tmp_path}"])
        if "base" in path.parts:
            continue
        if config.model.backbone.norm == "frozen_bn":
            with pytest.raises(TrainingError, match=r"train\.weights is not set"):
                check_frozen_parts(config)
            check_frozen_parts(load_config(path, [f"output={tmp_path}", "train.weights=r50.pth"]))
        else:
            check_frozen_parts(config)
            from_scratch.add(path.stem)
    assert {"quickstart", "sweep_lr_batch", "scratch_mask_rcnn_r50_fpn_gn_3x"} <= from_scratch
    assert "mask_rcnn_r50_fpn_1x" not in from_scratch


def test_frozen_norms_without_weights_are_allowed_on_request_and_when_resuming():
    frozen = {"backbone": {"norm": "frozen_bn"}}
    with pytest.raises(TrainingError, match=r"norm is frozen_bn"):
        check_frozen_parts(RunConfig.model_validate({"model": frozen}))
    check_frozen_parts(RunConfig.model_validate({"model": frozen}), resumes=True)
    allowed = {"model": frozen, "train": {"allow_frozen_random_norms": True}}
    check_frozen_parts(RunConfig.model_validate(allowed))
