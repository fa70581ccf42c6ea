"""The content of a report, as a chain that failed in its last stage leaves it."""

import io

import numpy as np
from PIL import Image

from pipeline.chain.plan import ChainStatus, PlannedStage, StageStatus
from pipeline.chain.report.content import ReportContent, ReportImage
from pipeline.chain.stage import Facts, StageRecord
from pipeline.chain.state import ChainState, StageState

FAILURE = "stage infer failed: the disk is <full> (log: /runs/night/stages/infer/log.txt)"
OUTPUT = "/runs/night"


def outcomes():
    per_class = [
        {"name": name, "objects": 70, "values": {"segm/AP": value, "bbox/AP": value}}
        for name, value in (("disc & ring", 0.71), ("star", 0.5), ("never seen", -1))
    ]
    return {
        "train_shards": {"shards": f"{OUTPUT}/shards/train", "summary": "900 images"},
        "val_shards": {"shards": f"{OUTPUT}/shards/val", "summary": "100 images"},
        "train": {"checkpoint_url": f"{OUTPUT}/train/step_00000900", "run_id": "r"},
        "evaluate": {
            "report_url": f"{OUTPUT}/evaluation/report.md",
            "metrics": {"bbox/AP": 0.6686, "segm/AP": 0.6157, "bbox/APs": -1},
            "per_class": per_class,
        },
        "register": {
            "name": "night",
            "version": "3",
            "promoted": False,
            "reason": "star is worse",
            "champion": "2",
            "reasons_for": ["segm/AP 0.6157 beats 0.5900 of champion 2"],
            "reasons_against": ["star is worse"],
        },
        "infer": {"output_url": f"{OUTPUT}/predictions"},
    }


def example_content():
    results = outcomes()
    stages = []
    for name, outcome in results.items():
        record = StageRecord(name, Facts({}, {}), outcome, 83.2)
        is_last = name == "infer"
        planned = PlannedStage(name, "runs" if is_last else "up to date", "up to date", record)
        state = StageState("failed" if is_last else "done", 1, 1.0, "the disk is <full>")
        stages.append(StageStatus(planned, state, False, f"{OUTPUT}/stages/{name}/log.txt"))
    chain = ChainState("night", "me", "all stages", "failed", 0.0, 10.0, FAILURE)
    buffer = io.BytesIO()
    Image.fromarray(np.full((60, 200, 3), 90, np.uint8)).save(buffer, "JPEG")
    steps = [float(step) for step in range(20, 900, 20)]
    return ReportContent(
        name="night",
        output=OUTPUT,
        created="2026-11-29 22:15 UTC",
        status=ChainStatus(chain, False, tuple(stages)),
        outcomes=results,
        curves={
            "train/loss": tuple((step, 2 - step / 1000) for step in steps),
            "train/loss_mask": tuple((step, float("nan")) for step in steps),
            "train/learning_rate": tuple((step, 0.02) for step in steps),
            "val/segm/AP": tuple((step, step / 2000) for step in steps),
        },
        images=[ReportImage("00_street<1>.png", buffer.getvalue())],
        settings="name: night\n",
    )
