"""A RunConfig is loaded with absolute locations, round-trips through YAML, and has a digest."""

import pytest
import yaml

from model.config.settings import ConfigError
from pipeline.config import RunConfig, config_digest, digest_of, load_config, to_yaml


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_relative_locations_are_relative_to_the_current_folder(here):
    (here / "c.yaml").write_text("output: out\ndata: {val_shards: ../v}\ntrain: {weights: w.pth}")
    config = load_config("c.yaml", ["infer.inputs=pictures"])
    assert config.output == str(here / "out")
    assert config.data.val_shards == str(here.parent / "v")
    assert config.train.weights == str(here / "w.pth")
    assert config.infer.inputs == str(here / "pictures")


def test_the_default_output_is_absolute_too(here):
    (here / "c.yaml").write_text("")
    assert load_config("c.yaml").output == str(here / "runs" / "run")


@pytest.mark.parametrize("location", ["", " ", "a\0b", "a\nb"])
def test_a_location_that_cannot_exist_is_refused(here, location):
    (here / "c.yaml").write_text(yaml.safe_dump({"output": location}))
    with pytest.raises(ConfigError, match=r"output: .*must not be empty or have control char"):
        load_config("c.yaml")


@pytest.mark.parametrize(
    "key",
    ["output", "data.train_shards", "infer.inputs", "infer.output", "infer.model", "train.weights"],
)
def test_a_url_that_nothing_can_read_is_refused(here, key):
    (here / "c.yaml").write_text("")
    with pytest.raises(ConfigError, match=rf"{key}: .*ftp://host/x: unsupported URL scheme; use a"):
        load_config("c.yaml", [f"{key}=ftp://host/x"])


def test_files_cannot_be_in_mlflow_or_on_the_web(here):
    (here / "c.yaml").write_text("")
    for url in ("models:/name/1", "https://host/folder"):
        with pytest.raises(ConfigError, match=r"infer\.inputs: .*unsupported URL scheme"):
            load_config("c.yaml", [f"infer.inputs={url}"])
        assert load_config("c.yaml", [f"infer.model={url}"]).infer.model == url


STORES = ("gs://b/k", "az://c/k", "abfs://c/k", "abfss://c@a.dfs.core.windows.net/k")


@pytest.mark.parametrize("url", ["s3://b/k", *STORES, "models:/name@champion", "/abs"])
def test_absolute_locations_are_unchanged(here, url):
    (here / "c.yaml").write_text("")
    assert load_config("c.yaml", [f"evaluate.weights={url}"]).evaluate.weights == url


def test_a_relative_output_is_refused_in_the_temporary_folder_of_a_ray_job(tmp_path, monkeypatch):
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    copy.mkdir(parents=True)
    (copy / "c.yaml").write_text("output: out")
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError, match="output: 'out' is relative"):
        load_config("c.yaml")
    assert load_config("c.yaml", ["output=s3://bucket/run"]).output == "s3://bucket/run"


def test_relative_weights_are_refused_in_the_temporary_folder_of_a_ray_job(tmp_path, monkeypatch):
    copy = tmp_path / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    copy.mkdir(parents=True)
    (copy / "c.yaml").write_text("output: s3://bucket/run\ntrain: {weights: resnet50.pth}")
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError, match=r"train\.weights: 'resnet50\.pth' is relative") as raised:
        load_config("c.yaml", ["output=out"])
    assert [each.partition(":")[0] for each in raised.value.problems] == ["output", "train.weights"]
    for weights in ("s3://bucket/resnet50.pth", "/shared/resnet50.pth", "imagenet", "coco"):
        assert load_config("c.yaml", [f"train.weights={weights}"]).train.weights == weights


@pytest.mark.parametrize("word", ["imagenet", "coco"])
def test_a_word_for_published_weights_is_no_location(here, word):
    (here / word).mkdir()
    (here / "c.yaml").write_text(f"train: {{weights: {word}}}")
    assert load_config("c.yaml").train.weights == word
    assert load_config("c.yaml", [f"train.weights=./{word}"]).train.weights == str(here / word)


@pytest.mark.parametrize(
    ("word", "settings", "message"),
    [
        (
            "imagenet",
            ["model.backbone.width=32"],
            r"train\.weights: no imagenet weights .*width 32.*ResNet-18, ",
        ),
        (
            "coco",
            ["model.backbone.depth=34"],
            r"train\.weights: no coco weights .*depth 34.*Mask R-CNN R50-FPN, ",
        ),
    ],
)
def test_a_word_for_an_architecture_without_published_weights_is_refused(
    here, word, settings, message
):
    (here / "c.yaml").write_text("")
    with pytest.raises(ConfigError, match=message):
        load_config("c.yaml", [f"train.weights={word}", *settings])


def test_a_config_written_as_yaml_loads_as_an_equal_one(here):
    (here / "c.yaml").write_text("")
    config = load_config("c.yaml", ["model.mask=null", "train.optimizer.lr=1e-5", "name=x"])
    (here / "d.yaml").write_text(to_yaml(config))
    assert load_config("d.yaml") == config


def test_the_digest_depends_on_the_values_not_on_how_they_are_written(here):
    (here / "a.yaml").write_text("name: x\ntrain: {global_batch: 16, momentum_: 1}")
    (here / "b.yaml").write_text("train: {optimizer: {lr: 0.02}}\nname: x")
    (here / "c.yaml").write_text("name: x\ntrain: {optimizer: {lr: 2e-2}, global_batch: 16}")
    b, c = load_config("b.yaml"), load_config("c.yaml")
    assert config_digest(b) == config_digest(c) != config_digest(load_config("b.yaml", ["seed=1"]))
    with pytest.raises(ConfigError, match="momentum_"):
        load_config("a.yaml")


def test_the_digest_of_a_document_is_the_same_in_every_process():
    digest = digest_of({"b": [1, 2.5, None], "a": "ü"})
    assert digest == "703dceec79c30480a5c3da98f5873d45349c66854150b1f903de556fe4042245"


def test_a_coco_source_needs_its_splits_or_shards():
    with pytest.raises(ValueError, match=r"data.train \(annotations and images\)"):
        RunConfig.model_validate({"data": {"source": "coco", "val_shards": "/v"}})


def test_the_batch_must_be_divisible_by_the_workers(here):
    (here / "c.yaml").write_text("train: {workers: 3}")
    with pytest.raises(ConfigError, match="global_batch 16 is not a multiple of"):
        load_config("c.yaml")


def test_yaml_has_what_a_config_states_and_the_folder_it_was_loaded_in(here, monkeypatch):
    (here / "c.yaml").write_text("model: {mask: null, conventions: {roi_aligned: true}}")
    config = load_config("c.yaml")
    assert yaml.safe_load(to_yaml(config)) == {
        "output": str(here / "runs" / "run"),
        "model": {"mask": None, "conventions": {"roi_aligned": True}},
    }
    (here / "d.yaml").write_text(to_yaml(config))
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert load_config(here / "d.yaml") == config


@pytest.mark.parametrize(
    ("child", "weights"),
    [
        ({}, {"nut": 2.0, "traffic light": 3.0}),
        (None, {}),
        ({"nut": None}, {"traffic light": 3.0}),
        ({"nut": None, "bolt": 5}, {"traffic light": 3.0, "bolt": 5.0}),
    ],
)
def test_a_file_can_remove_class_weights_of_its_base(tmp_path, child, weights):
    base = {"model": {"box": {"class_weights": {"nut": 2, "traffic light": 3}}}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    own = {"base": "base.yaml", "model": {"box": {"class_weights": child}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    assert load_config(tmp_path / "own.yaml").model.box.class_weights == weights


def test_a_key_on_the_command_line_may_have_spaces(tmp_path):
    (tmp_path / "own.yaml").write_text("name: own")
    config = load_config(tmp_path / "own.yaml", ["model.box.class_weights.traffic light=3"])
    assert config.model.box.class_weights == {"traffic light": 3.0}
    for wrong in ("model.box.class_weights. nut=3", "model.box.class_weights.nut =3", "a b=3"):
        with pytest.raises(ConfigError, match=r"override|unknown key"):
            load_config(tmp_path / "own.yaml", [wrong])


@pytest.mark.parametrize("weight", [".inf", ".nan", "0"])
def test_a_class_weight_is_a_positive_number(tmp_path, weight):
    (tmp_path / "own.yaml").write_text("name: own")
    with pytest.raises(ConfigError, match=r"class_weights\.nut"):
        load_config(tmp_path / "own.yaml", [f"model.box.class_weights.nut={weight}"])
