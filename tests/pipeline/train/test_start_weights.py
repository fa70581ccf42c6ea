"""A training adopts the conventions of the detector it starts from, unless its config sets them."""

import pytest
import torch
import torchvision

from model import build_detector, save_detector
from model.config import Conventions
from model.weights import load_network, load_weights
from pipeline.config import RunConfig, load_config, to_yaml
from pipeline.sweep.trial import best_config, trial_config
from pipeline.train.start_weights import adopt_conventions

THEIRS = Conventions(
    pixel_order="bgr", pixel_mean=(103.0, 116.0, 123.0), roi_sampling_ratio=0, roi_aligned=False
)


@pytest.fixture
def weights(tiny_model_config, tmp_path):
    config = tiny_model_config.model_copy(update={"conventions": THEIRS})
    save_detector(build_detector(config), tmp_path / "theirs")
    return str(tmp_path / "theirs")


def job(model, weights, **settings):
    conventions = Conventions(**settings)
    return RunConfig(
        model=model.model_copy(update={"conventions": conventions}), train={"weights": weights}
    )


def test_conventions_that_the_config_does_not_set_come_from_the_weights(tiny_model_config, weights):
    config, adopted = adopt_conventions(job(tiny_model_config, weights, roi_sampling_ratio=2))
    conventions = config.model.conventions
    assert conventions == THEIRS.model_copy(update={"roi_sampling_ratio": 2})
    assert adopted.keys() == {"pixel_order", "pixel_mean", "roi_aligned"}
    detector = build_detector(config.model)
    assert detector.config.conventions == conventions


def test_a_resumed_job_does_not_need_the_weights(tiny_model_config, weights, tmp_path):
    first, adopted = adopt_conventions(job(tiny_model_config, weights))
    again, same = adopt_conventions(job(tiny_model_config, str(tmp_path / "gone")), adopted)
    assert again.model == first.model
    assert same == adopted


def test_a_resumed_job_follows_what_its_config_states_now(tiny_model_config, weights):
    _, adopted = adopt_conventions(job(tiny_model_config, weights))
    assert adopted["roi_aligned"] is False
    again, same = adopt_conventions(job(tiny_model_config, weights, roi_aligned=True), adopted)
    assert again.model.conventions == THEIRS.model_copy(update={"roi_aligned": True})
    # Recorded as before: the next submission may state nothing again.
    assert same == adopted


def test_one_warning_names_the_conventions_that_the_config_overrules(
    tiny_model_config, weights, caplog
):
    config, _ = adopt_conventions(job(tiny_model_config, weights, roi_sampling_ratio=2))
    load_weights(build_detector(config.model), weights)
    [warning] = [m for m in caplog.messages if "conventions" in m]
    assert "The settings of the detector are used:" in warning
    lines = [line.strip() for line in warning.splitlines() if line.startswith("  model.")]
    assert lines == ["model.conventions.roi_sampling_ratio = 2 (the weights: 0)"]
    caplog.clear()
    config, _ = adopt_conventions(job(tiny_model_config, weights))
    load_weights(build_detector(config.model), weights)
    assert not [m for m in caplog.messages if "conventions" in m]


def read_back(config, tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    return load_config(tmp_path / "config.yaml")


COPIES = {
    "YAML": read_back,
    "trial": lambda config, _: trial_config(config, {"train.optimizer.lr": 0.1}, "t1"),
    "best trial": lambda config, tmp_path: read_back(
        best_config(config, {"model.rpn.nms_iou": 0.6}), tmp_path
    ),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_a_config_adopts_the_same_conventions(tiny_model_config, weights, tmp_path, copy):
    config = job(tiny_model_config, weights, roi_sampling_ratio=2)
    adopted_config, adopted = adopt_conventions(config)
    assert len(adopted) == 3
    copied = COPIES[copy](config, tmp_path)
    assert copied.model.conventions.model_fields_set == {"roi_sampling_ratio"}
    copied, same = adopt_conventions(copied)
    assert same == adopted
    assert copied.model.conventions == adopted_config.model.conventions
    # What was adopted is written as well: MLflow's copy trains the same model without the weights.
    again = read_back(adopted_config, tmp_path)
    assert again.model == adopted_config.model
    assert adopt_conventions(again)[0].model == adopted_config.model


def test_weights_of_a_backbone_alone_are_converted_instead(tiny_model_config, tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    config = job(tiny_model_config, str(tmp_path / "resnet18.pth"), pixel_order="bgr")
    assert adopt_conventions(config) == (config, {})


def test_without_weights_nothing_changes(tiny_model_config):
    config = job(tiny_model_config, None)
    assert adopt_conventions(config) == (config, {})


def test_the_checkpoint_of_such_a_training_has_the_same_conventions(
    tiny_model_config, weights, tmp_path
):
    config, _ = adopt_conventions(job(tiny_model_config, weights))
    save_detector(build_detector(config.model), tmp_path / "ours")
    assert load_network(tmp_path / "ours").config.conventions == THEIRS
