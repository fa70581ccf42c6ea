"""Wrong arguments of load_detector are refused in one short line, before a file is read."""

from pathlib import Path

import pytest
import torch

from model import build_detector, load_detector, save_detector

CASES = {
    "no source": ((None,), {}, TypeError, "source must be the path .*; got None"),
    "a list": ((["a", "b"],), {}, TypeError, r"source must be .*; got \['a', 'b'\]"),
    "bytes": ((b"model",), {}, TypeError, "source must be the path .*; got b'model'"),
    "empty": (("",), {}, ValueError, "source must be the path .*; got ''"),
    "NUL": (("a\0b",), {}, ValueError, r"source must be the path .*; got 'a\\x00b'"),
    "config": (("a", {"model": {}}), {}, TypeError, "config must be the path of a YAML file"),
    "gpu": (("a",), {"device": "gpu"}, ValueError, "'cuda' or 'cuda:N'; got 'gpu'"),
    "xpu": (("a",), {"device": "xpu"}, ValueError, "'cuda' or 'cuda:N'; got 'xpu'"),
    "mps": (("a",), {"device": torch.device("mps")}, ValueError, "got device\\(type='mps'"),
    "number": (("a",), {"device": 0}, TypeError, "device must be .*; got 0"),
    "no device": (("a",), {"device": None}, TypeError, "device must be .*; got None"),
    "conventions": (
        ("a",),
        {"conventions": "roi_aligned"},
        TypeError,
        "conventions must be a dict by name, .*; got 'roi_aligned'",
    ),
    "pairs": (
        ("a",),
        {"conventions": [("roi_aligned", False)]},
        TypeError,
        "conventions must be a dict",
    ),
    "keys": (("a",), {"conventions": {1: False}}, TypeError, "conventions must be a dict by name"),
}


@pytest.mark.parametrize(("arguments", "options", "error", "message"), CASES.values(), ids=CASES)
def test_a_wrong_argument_is_refused_in_one_line(arguments, options, error, message):
    with pytest.raises(error, match=message) as raised:
        load_detector(*arguments, **options)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


def test_a_gpu_that_the_machine_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"device is 'cuda:99', but (torch finds no|this machine)"):
        load_detector("a", device="cuda:99")


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
@pytest.mark.parametrize("kind", [str, Path])
def test_strings_paths_and_devices_are_accepted(tiny_config, tmp_path, device, kind):
    save_detector(build_detector(tiny_config()), tmp_path)
    assert load_detector(kind(tmp_path), device=device).device.type == "cpu"
