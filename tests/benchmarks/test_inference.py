"""`benchmarks.inference` runs every peer on the same weights and finds the same detections."""

import json
import sys

import pytest

from benchmarks import inference


def _run(monkeypatch, folder, peers):
    options = "--models mask_rcnn_light --short-side 128 --count 1 --repeats 1 --threads 1"
    path = folder / "rows.json"
    arguments = ["inference", *options.split(), "--out", str(path), "--peers", *peers]
    monkeypatch.setattr(sys, "argv", arguments)
    inference.main()
    return json.loads(path.read_text())["rows"]


@pytest.mark.soak
def test_every_peer_finds_the_same_detections(monkeypatch, tmp_path):
    peers = ["torchvision", "openvino", "onnxruntime"]
    for peer in peers:
        pytest.importorskip(peer, reason="pip install 'maskrcnn-ray[bench]'")
    rows = _run(monkeypatch, tmp_path, peers)
    cases = [(row["peer"], row["case"]) for row in rows]
    assert cases == [(peer, f"{case}, batch 1") for peer in peers for case in ("bitmaps", "rle")]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["ours_ms"])
        assert row["our_objects"] >= 20
        # A detection at a threshold may be kept by one and dropped by the other.
        assert row["equal"] >= 0.95, row


def test_a_peer_that_is_not_installed_is_named_and_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    rows = _run(monkeypatch, tmp_path, ["torchvision", "openvino"])
    assert {row["peer"] for row in rows} == {"torchvision"}
    assert "left out openvino" in capsys.readouterr().out


def test_other_runtimes_are_refused_on_a_gpu(monkeypatch, capsys):
    command = ["inference", "--device", "cuda", "--peers", "onnxruntime"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        inference.main()
    assert "only on the CPU in fp32: onnxruntime" in capsys.readouterr().err
