"""Write the README's benchmark tables from benchmarks/results/*.json.

``--check`` writes nothing and fails if the README differs.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
START = "<!-- benchmarks: written by tools/write_benchmark_tables.py -->"
END = "<!-- end of benchmarks -->"
Row = Mapping[str, Any]

MODELS = {
    "mask_rcnn": "Mask R-CNN",
    "faster_rcnn": "Faster R-CNN",
    "keypoint_rcnn": "Keypoint R-CNN",
    "retinanet": "RetinaNet",
}
LIGHT = "mask_rcnn_light"
CASES = ("bitmaps", "rle")
PEERS = {"torchvision": "torchvision", "openvino": "OpenVINO", "onnxruntime": "onnxruntime"}
PYRAMID = ("fpn, rpn p2", "fpn, rpn p3", "fpn, rpn p4", "fpn, rpn p5", "rpn p6")
# Label, description of the sizes, and for each ratio: op of its row, and prefixes of size and peer.
OPERATORS: Sequence[tuple[str, str, Sequence[tuple[str, str, str]]]] = (
    (
        "3x3 convolution + ReLU (inference, against oneDNN)",
        "FPN and RPN, P2 / P3 / P4 / P5 / P6 of 800 x 1088",
        [("conv3x3_relu", f"{level}: ", "") for level in PYRAMID],
    ),
    (
        "shortcut and ReLU after a convolution",
        "256 x 200 x 272 / 1024 x 50 x 68",
        [("add_bias_relu_", "res2", ""), ("add_bias_relu_", "res4", "")],
    ),
    (
        "deformable convolution, modulated",
        "128 channels, 100 x 136, forward / backward",
        [("deform_conv2d forward", "128", ""), ("deform_conv2d backward", "128", "")],
    ),
    (
        "deformable convolution, modulated",
        "512 channels, 25 x 34, forward",
        [("deform_conv2d forward", "512", "")],
    ),
    (
        "ROI align of all levels, channels_last",
        "1,000 ROIs, forward / backward",
        [
            ("roi_align forward", "1000 rois, nhwc", ""),
            ("roi_align backward", "1000 rois, nhwc", ""),
        ],
    ),
    (
        "ROI align of all levels, contiguous",
        "1,000 ROIs, forward / backward",
        [
            ("roi_align forward", "1000 rois, nchw", ""),
            ("roi_align backward", "1000 rois, nchw", ""),
        ],
    ),
    (
        "NMS",
        "1,000 / 5,000 / 20,000 boxes",
        [("nms", f"{count} boxes", "") for count in (1000, 5000, 20000)],
    ),
    ("class-aware NMS", "20,000 boxes, 80 classes", [("batched_nms", "20000", "")]),
    (
        "proposals from logits and deltas",
        "1 image of 800 x 1088, test / train",
        [("select_proposals", f"1 of 800x1088, {n}", "") for n in (1000, 2000)],
    ),
    (
        "matching",
        "217,413 anchors x 20 / 200 objects",
        [("match_boxes", f"217413 anchors x {n} boxes", "") for n in (20, 200)],
    ),
    (
        "matching without the IoU matrix (1.5 GiB)",
        "200,000 x 2,000 boxes",
        [("match_boxes", "200000", "")],
    ),
    ("pasting masks", "100 on 800 x 1088", [("paste_masks", "100", "")]),
    (
        "masks to RLE, against pasting and pycocotools",
        "100 on 800 x 1088",
        [("encode_roi_masks_rle", "100", "paste_masks_in_image")],
    ),
    (
        "mask targets from polygons, against bitmaps / pycocotools",
        "128 ROIs of 16 objects",
        [
            ("rasterize_polygons", "128", "project_masks_on_boxes"),
            ("rasterize_polygons", "128", "pycocotools"),
        ],
    ),
    (
        "mask targets from RLE, against pycocotools and ROI align",
        "128 ROIs of 16 objects",
        [("rasterize_rle", "128", "")],
    ),
    (
        "images resized, normalized, padded",
        "1 / 4 of COCO's sizes to 800",
        [("preprocess", "1 of 480x640", ""), ("preprocess", "4 of", "")],
    ),
)


def benchmark_tables() -> str:
    """Return the text of the section, from the saved results."""
    inference, train, ops = (_read(name) for name in ("inference", "train_step", "ops"))
    return "\n".join(
        [
            "Compared with torchvision on the same machine in the same run. A ratio is its time",
            "divided by ours. `python -m benchmarks.inference`, `benchmarks.train_step` and",
            "`benchmarks.ops` print these numbers and save them in `benchmarks/results/`.",
            "",
            f"Whole models on R50-FPN, fp32 ({_machine(inference)}):",
            "",
            f"| | inference, COCO images at short side {_short_side(inference)} | "
            f"training step, 2 COCO images at {_short_side(train)} |",
            "|---|---:|---:|",
            *(
                f"| {label} | {_inference_ratio(inference, model)} | "
                f"{_times([_find(train, model=model)['ratio']])} |"
                for model, label in MODELS.items()
            ),
            *_peer_table(inference),
            "",
            f"Operators ({_machine(ops, threads=1)}):",
            "",
            "| | size | ratio |",
            "|---|---|---:|",
            *(
                f"| {label} | {size} | {_times([_find_op(ops, *row)['ratio'] for row in rows])} |"
                for label, size, rows in OPERATORS
            ),
        ]
    )


def _short_side(record: Mapping[str, Any]) -> int:
    """Return the size of the R50-FPN models' images, which is one for all of a table."""
    [side] = {row["short_side"] for row in record["rows"] if row["model"] in MODELS}
    return int(side)


def _read(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(
        (ROOT / "benchmarks" / "results" / f"{name}_cpu.json").read_text()
    )
    return record


def _machine(record: Mapping[str, Any], threads: int | None = None) -> str:
    facts = record["machine"]
    count = threads or facts["threads"]
    text = f"{count} thread{'s' * (count > 1)}"
    version = facts["torch"].partition("+")[0]
    return f"{facts['cpu']}, {text}, torch {version}, commit {facts['commit'].rstrip('+')}"


def _inference_ratio(record: Mapping[str, Any], model: str) -> str:
    rows = [
        row
        for row in record["rows"]
        if (row["model"], row.get("peer", "torchvision")) == (model, "torchvision")
    ]
    main = next(row for row in rows if row["case"].startswith(("bitmaps", "objects")))
    rle = [row for row in rows if row["case"].startswith("rle")]
    if not rle:
        return _times([main["ratio"]])
    return f"{_times([main['ratio']])} (bitmaps; RLE {_times([rle[0]['ratio']])})"


def _peer_table(record: Mapping[str, Any]) -> list[str]:
    """Return the comparison with every peer of the Mask R-CNNs; empty without other peers."""
    rows = [row for row in record["rows"] if row["model"] in ("mask_rcnn", LIGHT)]
    if {row.get("peer", "torchvision") for row in rows} == {"torchvision"}:
        return []
    lines = [
        "",
        "Mask R-CNN beside other runtimes of torchvision's exported detector, the same weights and",
        "threads, fp32; milliseconds per image are for bitmaps:",
        "",
        "| | peer | its ms / ours | ratio (bitmaps; RLE) | equal detections |",
        "|---|---|---:|---:|---:|",
    ]
    for model, label in (("mask_rcnn", "R50-FPN at 800"), (LIGHT, "light recipe at 480")):
        for peer, name in PEERS.items():
            found = [row for row in rows if (row["model"], row["peer"]) == (model, peer)]
            if not found:
                continue
            bitmaps, rle = (next(r for r in found if r["case"].startswith(c)) for c in CASES)
            lines.append(
                f"| {label} | {name} {bitmaps['peer_version'].partition('+')[0]} | "
                f"{bitmaps['peer_ms']:.0f} / {bitmaps['ours_ms']:.0f} | "
                f"{_times([bitmaps['ratio']])}; {_times([rle['ratio']])} | "
                f"{100 * bitmaps['equal']:.1f}% |"
            )
    return lines


def _find(record: Mapping[str, Any], **fields: object) -> Row:
    return next(r for r in record["rows"] if all(r[key] == value for key, value in fields.items()))


def _find_op(record: Mapping[str, Any], op: str, size: str, peer: str) -> Row:
    return next(
        row
        for row in record["rows"]
        if (row["op"], row["threads"]) == (op, 1)
        and row["size"].startswith(size)
        and row["peer"].startswith(peer)
    )


def _times(ratios: Sequence[float]) -> str:
    return " / ".join(f"{r:.1f}" if r < 10 else f"{r:.0f}" for r in ratios) + "x"


def main(arguments: Sequence[str]) -> int:
    """Write the tables, or compare them with ``--check``."""
    text = README.read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    updated = f"{before}{START}\n{benchmark_tables()}\n{END}{after}"
    if "--check" in arguments:
        return int(updated != text)
    README.write_text(updated)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
