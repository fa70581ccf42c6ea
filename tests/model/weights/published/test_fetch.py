"""A word gets a file: from a mirror, a cache or its publisher, with its digest checked."""

import shutil

import numpy as np
import pytest

from model import ModelConfig, build_detector, load_detector
from model.weights import WeightsError, load_weights
from model.weights.published.fetch import MIRRORS_VARIABLE, fetch_published
from model.weights.published.table import published_weights

RESNET18 = ModelConfig.model_validate({"backbone": {"depth": 18}, "fpn": {"channels": 16}})
FASTER = ModelConfig.model_validate({"mask": None})
UNREACHABLE = "http://127.0.0.1:9"


def test_a_backbone_is_downloaded_once_and_fills_a_detector(publisher, weights_files):
    detector = build_detector(RESNET18)
    report = load_weights(detector, "imagenet")
    assert sum(name.startswith("backbone.") for name in report.loaded) > 90
    assert publisher.requests == [f"/{publisher.files['imagenet']}"]
    path = fetch_published("imagenet", RESNET18)
    assert path.read_bytes() == weights_files["imagenet"].read_bytes()
    assert len(publisher.requests) == 1


def test_a_detector_is_loaded_for_the_architecture_of_the_config(publisher):
    detector = load_detector("coco", config=FASTER, short_side=64)
    assert [category.name for category in detector.categories][:2] == ["person", "bicycle"]
    assert detector.config.mask is None
    assert not detector.config.conventions.roi_aligned  # torchvision's
    detector.predict(np.zeros((64, 64, 3), np.uint8))
    assert publisher.requests == [f"/{publisher.files['coco']}"]


def test_other_sources_stay_as_they_are(publisher, tmp_path):
    for source in ("weights.pth", tmp_path / "coco", "./coco", "models:/coco@champion"):
        assert fetch_published(source, FASTER) == source
    assert publisher.requests == []


@pytest.mark.parametrize("kind", ["folder", "address"])
def test_a_mirror_comes_before_the_publisher(publisher, tmp_path, monkeypatch, kind):
    folder = tmp_path / "mirror"
    folder.mkdir()
    shutil.copy(publisher.folder / publisher.files["imagenet"], folder)
    mirror = str(folder) if kind == "folder" else f"{publisher.address}/./"
    monkeypatch.setenv(MIRRORS_VARIABLE, f"{UNREACHABLE}, {mirror}")
    path = fetch_published("imagenet", RESNET18)
    assert path.name.endswith(publisher.files["imagenet"])
    assert (path.parent == folder) == (kind == "folder")
    assert publisher.requests == ([] if kind == "folder" else [f"/./{path.name[17:]}"])


@pytest.mark.parametrize("place", ["cache", "torch/hub/checkpoints"])
def test_a_file_that_somebody_put_into_a_cache_is_used(publisher, tmp_path, place):
    folder = tmp_path / place
    folder.mkdir(parents=True)
    name = publisher.files["imagenet"]
    shutil.copy(publisher.folder / name, folder)
    assert fetch_published("imagenet", RESNET18) == folder / name
    assert publisher.requests == []


def test_a_damaged_file_in_a_cache_is_not_used(publisher, no_caches):
    no_caches.mkdir()
    damaged = no_caches / publisher.files["imagenet"]
    damaged.write_bytes(b"damaged")
    path = fetch_published("imagenet", RESNET18)
    assert path != damaged
    assert len(publisher.requests) == 1


def test_a_file_with_another_digest_is_refused(publisher, monkeypatch):
    served = publisher.folder / publisher.files["imagenet"]
    content = served.read_bytes()
    served.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(WeightsError, match=r"must have the SHA-256 \w{8}; got \w{64}"):
            fetch_published("imagenet", RESNET18)
    finally:
        served.write_bytes(content)
    assert fetch_published("imagenet", RESNET18).read_bytes() == content


def test_without_a_network_the_error_says_where_the_file_is_and_where_to_put_it(
    no_caches, monkeypatch
):
    monkeypatch.setenv(MIRRORS_VARIABLE, UNREACHABLE)
    monkeypatch.setenv("https_proxy", UNREACHABLE)
    with pytest.raises(WeightsError) as raised:
        load_detector("coco")
    [message] = str(raised.value).splitlines()
    name = "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    for part in (
        f"{UNREACHABLE.removesuffix(':9')}/{name}: ",
        f"cannot download https://download.pytorch.org/models/{name}",
        f"Download https://download.pytorch.org/models/{name} elsewhere",
        "license: BSD-3-Clause",
        "cocodataset.org/#termsofuse",
        f"put it into {no_caches}",
        MIRRORS_VARIABLE,
        "the path of the file in place of 'coco'",
    ):
        assert part in message, part


def test_a_backbone_is_no_detector():
    with pytest.raises(WeightsError, match="imagenet weights are those of a backbone"):
        load_detector("imagenet")


def test_every_published_file_has_terms():
    for word in ("imagenet", "coco"):
        for weights in published_weights(word):
            assert "http" in weights.terms
