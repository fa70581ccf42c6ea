"""The chain skips finished stages and reruns those that changed or whose files are missing."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.stages import StageRecord, _run_stage, run_chain


def with_section(config, section, **changes):
    changed = getattr(config, section).model_copy(update=changes)
    return RunConfig.model_validate(config.model_copy(update={section: changed}).model_dump())


def stages_run(config):
    """Run the chain and return the names of the stages that were not skipped."""
    return [record.stage for record in run_chain(config) if not record.skipped]


@pytest.fixture
def small_config(run_config):
    """A config that draws twelve shapes images and trains two steps on them."""
    shapes = run_config.data.shapes.model_copy(
        update={"images": 8, "val_images": 4, "side": 64, "max_objects": 2}
    )
    config = with_section(run_config, "data", shapes=shapes, rows_per_shard=4, rows_per_group=4)
    schedule = config.train.schedule.model_copy(
        update={"steps": 2, "milestones": (1,), "warmup_steps": 0}
    )
    return with_section(config, "train", global_batch=4, schedule=schedule)


def test_a_reworded_summary_does_not_change_a_finished_outcome(small_config):
    """Outcomes are hashed into the keys of later stages, which must not run again."""
    first = _run_stage("val_shards", small_config)
    assert not first.skipped
    marker = Path(small_config.output) / "stages" / "val_shards" / "_SUCCESS.json"
    written = json.loads(marker.read_text())
    written["outcome"]["summary"] = "an older wording"
    marker.write_text(json.dumps(written))
    second = _run_stage("val_shards", small_config)
    assert second.skipped
    assert second.outcome == first.outcome | {"summary": "an older wording"}


def test_a_stage_in_a_moved_output_is_still_finished(run_config, tiny_checkpoint, shapes_shards):
    config = with_section(run_config, "data", val_shards=shapes_shards)
    config = with_section(config, "evaluate", batch=2, pictures=1)
    shutil.copytree(tiny_checkpoint, Path(config.output) / "train/step_00000010")

    def evaluate(config):
        checkpoint = f"{config.output}/train/step_00000010"
        shards = StageRecord("val_shards", "key", {"shards": shapes_shards}, 1.0)
        train = {"checkpoint_url": checkpoint, "run_id": None}
        return _run_stage("evaluate", config, shards, StageRecord("train", "key", train, 1.0))

    assert not evaluate(config).skipped
    moved = f"{config.output} moved"
    shutil.move(config.output, moved)
    again = evaluate(config.model_copy(update={"output": moved}))
    assert again.skipped
    urls = [again.outcome["report_url"], *again.outcome["pictures"]]
    assert all(url.startswith(f"{moved}/") and Path(url).is_file() for url in urls)


@pytest.mark.ray
def test_a_chain_resumes_and_reruns_only_what_a_change_affects(ray_cluster, small_config):
    config = small_config
    assert stages_run(config) == [
        *("train_shards", "val_shards", "train", "evaluate", "register", "infer"),
    ]
    assert stages_run(config) == []
    assert stages_run(with_section(config, "infer", score_threshold=0.5)) == ["infer"]
    shutil.rmtree(Path(config.output) / "evaluation")
    rerun = stages_run(config)
    assert "evaluate" in rerun
    assert "train" not in rerun


@pytest.mark.parametrize("text", ["{", "[]", '{"stage": "val_shards"}', '{"key": 3}'])
def test_a_stage_whose_record_is_damaged_runs_again(small_config, caplog, text):
    assert not _run_stage("val_shards", small_config).skipped
    marker = Path(small_config.output) / "stages" / "val_shards" / "_SUCCESS.json"
    marker.write_text(text)
    assert not _run_stage("val_shards", small_config).skipped
    assert "_SUCCESS.json" in caplog.text
    assert _run_stage("val_shards", small_config).skipped
