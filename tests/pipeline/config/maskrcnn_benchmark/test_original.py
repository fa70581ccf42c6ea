"""Files are read as maskrcnn-benchmark reads them; anything else is refused."""

import pytest

from model.config.settings import ConfigError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {RPN: {ANCHOR_SIZE: [1]}}", "ANCHOR_SIZE: unknown key; did you mean MODEL.RPN.A"),
        ("SOLVER: {LR: 1}", r"SOLVER.LR: unknown key"),
        ("SOLVER: {BASE_LR: fast}", "SOLVER.BASE_LR: must be a number; got 'fast'"),
        ("MODEL: {MASK_ON: 1}", "MODEL.MASK_ON: must be a boolean; got 1"),
        ("SOLVER: {STEPS: 3}", "SOLVER.STEPS: must be a list of numbers; got 3"),
        ("SOLVER: 3", "SOLVER: must be a mapping; got 3"),
        ("SOLVER: {BASE_LR: 0}", "train.optimizer.lr: must be greater than 0; got 0"),
        ("[1, 2]", "must hold a mapping of settings; got list"),
        ("a: [", "is not valid YAML"),
        ("_BASE_: ../Base.yaml\nVERSION: 2", "detectron2's configs are not supported"),
        ("SOLVER: &a {BASE_LR: 1}\nTEST: *a", "aliases"),
        ("OUTPUT_DIR: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("[" * 3000, "nested too deeply"),
    ],
)
def test_a_file_that_the_original_cannot_read_is_refused(text, message, import_text):
    with pytest.raises(ConfigError, match=message):
        import_text(text)


def test_every_bad_key_is_listed_at_once(import_text):
    with pytest.raises(ConfigError) as error:
        import_text("SOLVER: {LR: 1, STEPS: 3}\nMODEL: {WEIGTH: x}")
    assert len(error.value.problems) == 3


def test_the_last_of_a_repeated_section_wins_and_the_first_is_reported(import_text):
    imported = import_text(
        "MODEL:\n  RESNETS: {STRIDE_IN_1X1: False}\n  RESNETS: {NUM_GROUPS: 32}\n"
    )
    assert imported.config.model.conventions.stride_in_1x1
    assert imported.skipped[0].value == {"STRIDE_IN_1X1": False}


def test_python_literals_are_parsed_and_never_executed(import_text, tmp_path):
    target = tmp_path / "made"
    text = f"SOLVER: {{STEPS: \"(2, 4)\"}}\nOUTPUT_DIR: \"open('{target}', 'w')\"\n"
    config = import_text(text).config
    assert config.train.schedule.milestones == (2, 4)
    assert not target.exists()
