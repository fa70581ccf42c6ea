"""Damage to a saved model is found when it is loaded, and named with the file and the remedy."""

import json
import shutil
from pathlib import Path

import pytest

from model import build_detector, load_detector, save_detector
from model.weights import WeightsError, load_network, load_weights
from model.weights.storage.checksums import verify_checksums, write_checksums

FILES = ("model.safetensors", "model.json")


@pytest.fixture(scope="module")
def original(tiny_config, tmp_path_factory):
    detector = build_detector(tiny_config())
    folder = tmp_path_factory.mktemp("original")
    save_detector(detector, folder)
    return detector, folder


@pytest.fixture
def saved(original, tmp_path):
    return Path(shutil.copytree(original[1], tmp_path / "saved"))


def flip_a_bit(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def zero_a_page(data):
    """Clear 4 KB from the middle on, as a failing disk does; all of a smaller file."""
    start = len(data) // 2 if len(data) > 8192 else 0
    page = data[start : start + 4096]
    return data[:start] + bytes(len(page)) + data[start + len(page) :]


DAMAGE = {
    "a flipped bit": flip_a_bit,
    "a zeroed page": zero_a_page,
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
}
LOADERS = {
    "folder": lambda folder, _: load_detector(folder),
    "file": lambda folder, _: load_detector(folder / "model.safetensors"),
    "initial weights": lambda folder, detector: load_weights(detector, folder),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("loader", LOADERS)
def test_damage_is_one_line_with_the_file_and_the_remedy(original, saved, name, damage, loader):
    file = saved / name
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(WeightsError) as raised:
        LOADERS[loader](saved, original[0])
    message = str(raised.value)
    assert message.startswith(f"{file} is damaged")
    assert "Replace it with an intact copy" in message
    assert "\n" not in message


def test_a_missing_file_is_named(saved):
    (saved / "model.json").unlink()
    with pytest.raises(WeightsError, match=r"model\.json is missing\. Replace"):
        load_network(saved)


@pytest.mark.parametrize("name", FILES)
def test_without_checksums_a_truncated_file_is_still_one_line_with_its_path(saved, name):
    (saved / "checksums.json").unlink()
    file = saved / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(WeightsError) as raised:
        load_network(saved)
    assert str(raised.value).startswith(f"{file} is damaged")
    assert "\n" not in str(raised.value)


def test_a_folder_without_checksums_is_loaded_without_the_check(saved):
    (saved / "checksums.json").unlink()
    assert not verify_checksums(saved)
    load_network(saved)


def test_a_file_changed_on_purpose_loads_once_its_checksums_are_deleted(saved):
    settings = json.loads((saved / "model.json").read_text())
    settings["config"]["box"]["score_threshold"] = 0.25
    (saved / "model.json").write_text(json.dumps(settings))
    with pytest.raises(WeightsError, match=r"delete the checksums\.json beside it"):
        load_network(saved)
    (saved / "checksums.json").unlink()
    assert load_network(saved).config.box.score_threshold == 0.25


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "{}", "[" * 100_000, "\ud800"),
        '{"files": {"model.json": 3}}',
        '{"files": {"../x": {"bytes": 1}}}',
    ],
    ids=range(8),
)
def test_damaged_checksums_are_named_with_the_remedy(saved, content):
    (saved / "checksums.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(WeightsError, match=r"checksums\.json is damaged .*delete the") as raised:
        load_network(saved)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "a\0b", ".."])
def test_checksums_of_files_elsewhere_are_refused(saved, name):
    entry = {"bytes": 1, "sha256": "0" * 64}
    (saved / "checksums.json").write_text(json.dumps({"files": {name: entry}}))
    with pytest.raises(WeightsError, match="names a file outside its folder"):
        load_network(saved)


def test_files_that_the_reader_does_not_need_are_not_read(saved):
    (saved / "training.pt").write_bytes(b"state")
    write_checksums(saved, (*FILES, "training.pt"))
    (saved / "training.pt").write_bytes(b"gone!")
    load_network(saved)
    with pytest.raises(WeightsError, match=r"training\.pt is damaged"):
        verify_checksums(saved)


def test_saving_again_replaces_the_checksums(saved, tiny_config):
    save_detector(build_detector(tiny_config()), saved)
    assert verify_checksums(saved)
