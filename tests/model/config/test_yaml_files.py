"""A file overrides its bases, key=value overrides the file, and unusable files are named."""

import pytest

from model.config.settings import ConfigError
from model.config.yaml_files import apply_overrides, compose_yaml


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_file_is_merged_over_its_bases_key_by_key(tmp_path):
    write(
        tmp_path,
        root="a: {x: 1, y: [1, 2]}\nb: {z: 1}",
        other="a: {y: [3]}\nb: null",
        top="base: [root.yaml, other.yaml]\na: {w: 1e-4}",
    )
    assert compose_yaml(tmp_path / "top.yaml") == {"a": {"x": 1, "y": [3], "w": 1e-4}, "b": None}


def test_bases_are_relative_to_the_file_that_names_them(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    write(tmp_path, root="a: 1")
    write(tmp_path / "deep", top="base: ../root.yaml\nb: 2")
    monkeypatch.chdir("/")
    assert compose_yaml(tmp_path / "deep" / "top.yaml") == {"a": 1, "b": 2}


def test_a_path_that_leads_nowhere_is_looked_up_among_the_installed_recipes(tmp_path, monkeypatch):
    installed, own = tmp_path / "installed", tmp_path / "own"
    for folder in (installed / "configs/base", own):
        folder.mkdir(parents=True)
    write(installed / "configs", recipe="base: base/root.yaml\na: 1")
    write(installed / "configs/base", root="c: 3")
    write(own, mine="base: configs/recipe.yaml\nb: 2")
    monkeypatch.chdir(own)
    assert compose_yaml("mine.yaml", installed) == {"a": 1, "b": 2, "c": 3}
    assert compose_yaml("configs/recipe.yaml", installed) == {"a": 1, "c": 3}
    (own / "configs").mkdir()
    write(own / "configs", recipe="a: of the user")
    assert compose_yaml("mine.yaml", installed) == {"a": "of the user", "b": 2}
    with pytest.raises(ConfigError, match=r"cannot read .*own/configs/gone\.yaml"):
        compose_yaml("configs/gone.yaml", installed)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"top": "base: top.yaml"}, "circular"),
        (
            {"top": "base: b.yaml", "b": "base: top.yaml"},
            "circular reference: .*top.yaml -> .*b.yaml -> .*top",
        ),
        ({"top": "base: gone.yaml"}, r"cannot read .*gone.yaml \(base of .*top.yaml\)"),
        ({"top": "a: [1"}, "not valid YAML"),
        ({"top": "a: 1\na: 2"}, "'a' is given twice"),
        ({"top": "- 1"}, "must hold a mapping"),
    ],
)
def test_the_error_names_a_file_that_cannot_be_used(tmp_path, files, message):
    write(tmp_path, **files)
    with pytest.raises(ConfigError, match=message):
        compose_yaml(tmp_path / "top.yaml")


def test_overrides_are_read_as_yaml_and_do_not_modify_the_tree():
    tree = {"a": {"b": 1, "c": 2}, "n": None}
    overrides = ["a.b=1e-3", "a.d=[x, 2]", "n.m=null", "u=s3://bucket/a=b", "v="]
    assert apply_overrides(tree, overrides) == {
        "a": {"b": 1e-3, "c": 2, "d": ["x", 2]},
        "n": {"m": None},
        "u": "s3://bucket/a=b",
        "v": None,
    }
    assert tree == {"a": {"b": 1, "c": 2}, "n": None}


def test_all_bad_overrides_are_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"a": 1}, ["a.b=1", "no_value", "=1", "c=[1"])
    text = str(caught.value)
    assert text.startswith("4 settings are wrong:")
    for part in ("a.b: a is the plain value 1", "'no_value'", "'=1'", "c: '[1'"):
        assert part in text
