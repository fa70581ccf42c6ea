"""Another terminal, or machine, sees the progress of a chain, on a disk and in a bucket."""

import threading
import time
from dataclasses import replace

import psutil
import pytest

from pipeline.chain.failures import StageError
from pipeline.chain.plan import chain_status
from pipeline.chain.run import run_chain
from pipeline.chain.selection import Selection
from pipeline.chain.stage import read_record
from pipeline.chain.state import (
    StageState,
    new_state,
    stages_url,
    write_chain_state,
    write_stage_state,
)
from pipeline.chain.summary import status_table
from pipeline.config import RunConfig
from pipeline.storage.exclusive_use import FolderInUseError, exclusive_use
from tests.pipeline.chain.test_chain import run_alone


def lines(config):
    table = status_table(chain_status(config), time.time()).splitlines()
    return {line.split()[0]: line for line in table}


@pytest.mark.s3
@pytest.mark.parametrize("store", ["disk", "bucket"])
def test_the_states_of_a_chain_and_its_stages(small_config, request, store):
    config = small_config
    if store == "bucket":
        output = request.getfixturevalue("s3")("status")
        config = small_config.model_copy(update={"output": output})
    assert lines(config)["no"] == "no chain has run in this output yet"
    run_alone(config, "val_shards")
    state = new_state(config, "all stages")
    with exclusive_use(stages_url(config.output), "the chain"):
        write_chain_state(config.output, state)
        now = time.time()
        write_stage_state(config.output, "train_shards", StageState("running", 2, now, "lost"))
        shown = lines(config)
        assert "running since" in shown["chain"]
        assert "running" in shown["train_shards"]
        assert "attempt 2, after: lost (log: " in shown["train_shards"]
        assert shown["val_shards"].split()[1] == "finished"
        assert "may run" in shown["train"]
    shown = lines(config)
    assert "it ended without a word" in shown["chain"]
    assert "interrupted" in shown["train_shards"]
    write_stage_state(config.output, "train_shards", StageState("failed", 3, now, "disk full"))
    failed = replace(state, state="failed", ended=now, message="stage train_shards failed")
    write_chain_state(config.output, failed)
    shown = lines(config)
    assert shown["chain"].endswith("UTC: stage train_shards failed")
    assert "disk full (log: " in shown["train_shards"]


def test_a_second_chain_is_refused_with_the_name_of_the_first(small_config):
    with exclusive_use(stages_url(small_config.output), "the chain tiny of ada"):
        chain = run_chain(small_config)
        with pytest.raises(FolderInUseError, match=r"the chain tiny of ada, process \d+ on "):
            next(chain)


def with_many_images(config):
    tree = config.model_dump(mode="json")
    tree["data"]["shapes"]["val_images"] = 600
    return RunConfig.model_validate(tree)


@pytest.mark.ray
def test_a_stage_whose_process_is_killed_runs_again(ray_cluster, small_config, caplog):
    config = with_many_images(small_config)
    killed = []

    def kill_once():
        deadline = time.monotonic() + 300
        while not killed and time.monotonic() < deadline:
            for process in psutil.process_iter(["cmdline"]):
                if "ray::val_shards" in " ".join(process.info["cmdline"] or ()):
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=kill_once)
    thread.start()
    records = {each.stage: each for each in run_chain(config, Selection(None, "val_shards"))}
    thread.join()
    assert killed
    assert read_record(config.output, "val_shards").outcome == records["val_shards"].outcome
    assert "a process or machine was lost" in caplog.text
    assert "(retry 1 of 2)" in caplog.text


@pytest.mark.ray
def test_a_stage_that_takes_too_long_is_stopped(ray_cluster, small_config):
    tree = with_many_images(small_config).model_dump(mode="json")
    tree["chain"]["timeout_hours"] = {"val_shards": 1e-5}
    config = RunConfig.model_validate(tree)
    with pytest.raises(StageError, match="stage val_shards failed: it ran longer than chain"):
        list(run_chain(config, Selection(None, "val_shards")))
    assert read_record(config.output, "val_shards") is None
