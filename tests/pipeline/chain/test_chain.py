"""The chain skips what is up to date, and runs what changed or whose files are missing."""

import shutil
from pathlib import Path

import pytest

from model.config.settings import ConfigError
from pipeline.chain.assessment import assess, present_facts
from pipeline.chain.plan import plan_chain
from pipeline.chain.run import run_chain
from pipeline.chain.selection import Selection
from pipeline.chain.stage import read_record
from pipeline.chain.stages import chain_stages
from pipeline.chain.task import run_stage
from pipeline.config import RunConfig, SplitConfig
from pipeline.ingest.shapes_dataset import draw_shapes_dataset
from pipeline.storage import StorageError


def with_section(config, section, **changes):
    changed = getattr(config, section).model_copy(update=changes)
    return RunConfig.model_validate(config.model_copy(update={section: changed}).model_dump())


def run_alone(config, name, outcomes=None):
    """Run a stage in this process if it must run; return why, or None if it is up to date."""
    outcomes = outcomes or {}
    stage = next(each for each in chain_stages(config) if each.name == name)
    found = assess(stage, config, outcomes)
    if found.record is not None:
        return None
    record = run_stage(name, config, present_facts(stage, config, outcomes), outcomes)
    assert record.stage == name, record
    return found.reason


def test_a_stage_in_a_moved_output_is_still_finished(run_config, tiny_checkpoint, shapes_shards):
    config = with_section(run_config, "data", val_shards=shapes_shards)
    config = with_section(config, "evaluate", batch=2, pictures=1)
    shutil.copytree(tiny_checkpoint, Path(config.output) / "train/step_00000010")

    def evaluate(config):
        checkpoint = f"{config.output}/train/step_00000010"
        train = {"checkpoint_url": checkpoint, "weights_sha256": None, "run_id": None}
        return run_alone(config, "evaluate", {"val_shards": {"digest": "d"}, "train": train})

    assert evaluate(config) == "it has not been finished yet"
    moved = f"{config.output} moved"
    shutil.move(config.output, moved)
    assert evaluate(config.model_copy(update={"output": moved})) is None
    outcome = read_record(moved, "evaluate").outcome
    urls = [outcome["report_url"], *outcome["pictures"]]
    assert all(url.startswith(f"{moved}/") and Path(url).is_file() for url in urls)


@pytest.mark.parametrize("text", ["{", "[]", '{"stage": "val_shards"}', '{"facts": 3}'])
def test_a_stage_whose_record_is_damaged_runs_again(small_config, text):
    assert run_alone(small_config, "val_shards") == "it has not been finished yet"
    marker = Path(small_config.output) / "stages" / "val_shards" / "_SUCCESS.json"
    marker.write_text(text)
    assert "_SUCCESS.json" in run_alone(small_config, "val_shards")
    assert run_alone(small_config, "val_shards") is None


def test_the_reason_names_what_changed(small_config):
    run_alone(small_config, "val_shards")
    shapes = small_config.data.shapes.model_copy(update={"val_images": 6})
    changed = with_section(small_config, "data", shapes=shapes)
    assert run_alone(changed, "val_shards") == (
        "its settings changed (data.shapes.val_images: 4 -> 6)"
    )
    shard = next((Path(small_config.output) / "shards/val").glob("*.parquet"))
    shard.unlink()
    assert run_alone(changed, "val_shards").endswith(f"has no {shard.name}")
    shutil.rmtree(Path(small_config.output) / "shards")
    assert run_alone(changed, "val_shards").endswith("shards/val is gone")


def test_a_function_is_asked_again_and_its_shards_are_kept(small_config, tmp_path, monkeypatch):
    """Nobody can see from outside whether it would return other annotations now."""
    annotations, images = draw_shapes_dataset(tmp_path / "drawn", 4, 64, 2, 5)
    module = tmp_path / "own_annotations.py"
    module.write_text("import json\ndef read(path): return json.load(open(path))")
    monkeypatch.chdir(tmp_path)
    arguments = {"path": str(annotations)}
    part = {"function": "own_annotations:read", "images": str(images), "arguments": arguments}
    config = with_section(small_config, "data", source="function", train=(part,), val=(part,))
    run_alone(config, "val_shards")
    digest = read_record(config.output, "val_shards").outcome["digest"]
    assert run_alone(config, "val_shards") == "its function may return other annotations now"
    assert read_record(config.output, "val_shards").outcome["digest"] == digest


def test_settings_of_another_stage_do_not_make_a_stage_run(small_config):
    run_alone(small_config, "val_shards")
    changed = with_section(small_config, "data", flip_probability=0.1, decode_threads=1)
    assert run_alone(with_section(changed, "train", log_every=3), "val_shards") is None


def test_a_plan_changes_nothing_and_says_what_depends_on_what(small_config, files_below):
    run_alone(small_config, "val_shards")
    before = files_below(small_config.output)
    planned = {each.name: each for each in plan_chain(small_config)}
    assert [each.verdict for each in planned.values()] == [
        *("runs", "up to date", "may run", "may run", "may run", "may run"),
    ]
    assert planned["train"].reason == "it depends on what comes out of train_shards"
    until = {each.name: each.verdict for each in plan_chain(small_config, Selection(None, "train"))}
    assert until["evaluate"] == "not selected"
    begin = {each.name: each for each in plan_chain(small_config, Selection("evaluate"))}
    assert begin["train_shards"].verdict == "missing"
    assert files_below(small_config.output) == before


@pytest.mark.parametrize(
    ("selection", "problem"),
    [
        (Selection("trian"), "--from trian: no stage of this chain; its stages are train_shards"),
        (Selection(None, "sweep"), "--until sweep: no stage of this chain"),
        (Selection("infer", "train"), "--until train is before --from infer"),
    ],
)
def test_a_selection_of_stages_that_do_not_exist_is_refused(small_config, selection, problem):
    with pytest.raises(ConfigError, match=problem):
        next(run_chain(small_config, selection))
    assert not Path(small_config.output).exists()


def test_what_is_known_to_be_missing_is_refused_at_the_start(small_config):
    config = with_section(small_config, "train", weights="/nowhere/weights.pth")
    with pytest.raises(ConfigError, match=r"train\.weights: /nowhere/weights\.pth does not exist"):
        next(run_chain(config))
    settings = {"inputs": "/nowhere/images", "model": "/nowhere/model"}
    config = with_section(small_config, "infer", **settings)
    with pytest.raises(ConfigError, match=r"(?s)infer\.model: .*infer\.inputs: .*does not exist"):
        next(run_chain(config))
    part = SplitConfig(annotations="/nowhere/train.json", images="/nowhere")
    config = with_section(small_config, "data", source="coco", train=(part,), val=(part,))
    with pytest.raises(StorageError, match=r"/nowhere/train\.json: no such file"):
        next(run_chain(config))
    config = with_section(small_config, "data", split_shards={"test": "/nowhere/test"})
    config = with_section(config, "evaluate", split="test")
    with pytest.raises(StorageError, match=r"/nowhere/test/manifest\.json: no manifest"):
        next(run_chain(config))
    assert not Path(small_config.output).exists()
    config = with_section(small_config, "track", uri="http://127.0.0.1:9")
    with pytest.raises(RuntimeError, match=r"no MLflow server answers at http://127\.0\.0\.1:9"):
        next(run_chain(config))
