"""The README's tables are those of the saved benchmark results."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_shows_the_saved_results():
    tool = runpy.run_path(str(ROOT / "tools" / "write_benchmark_tables.py"))
    assert tool["main"](["--check"]) == 0, "run python tools/write_benchmark_tables.py"


def test_the_table_of_other_runtimes_has_a_line_per_model_and_peer():
    tool = runpy.run_path(str(ROOT / "tools" / "write_benchmark_tables.py"))
    row = {"peer_version": "2.1+x", "peer_ms": 300.0, "ours_ms": 100.0, "ratio": 3.0, "equal": 0.99}
    rows = [
        row | {"model": model, "peer": peer, "case": f"{case}, batch 1"}
        for model, peer in (("mask_rcnn", "torchvision"), ("mask_rcnn_light", "openvino"))
        for case in ("bitmaps", "rle")
    ]
    assert tool["_peer_table"]({"rows": rows})[-2:] == [
        "| R50-FPN at 800 | torchvision 2.1 | 300 / 100 | 3.0x; 3.0x | 99.0% |",
        "| light recipe at 480 | OpenVINO 2.1 | 300 / 100 | 3.0x; 3.0x | 99.0% |",
    ]
    assert tool["_peer_table"]({"rows": rows[:2]}) == []
