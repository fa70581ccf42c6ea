"""Run every job in order: shards, training, evaluation, registration, batch inference."""

import sys
from typing import TYPE_CHECKING

from pipeline.config import RunConfig
from workflows.command_line import format_values, main

if TYPE_CHECKING:
    from pipeline.stages import StageRecord


def plan(config: RunConfig) -> str:
    """Say where the results of the stages are written."""
    return f"running all stages that are not up to date; results in {config.output}"


def job(config: RunConfig) -> str:
    """Run the stages that are not done yet, printing a line as each one ends."""
    from pipeline.stages import run_chain

    records = {}
    for record in run_chain(config):
        records[record.stage] = record
        print(_stage_line(record), flush=True)
    evaluated = records["evaluate"].outcome
    predicted = records["infer"].outcome
    aps = {name: ap for name, ap in evaluated["metrics"].items() if name.endswith("/AP")}
    image_folder = (predicted["pictures"] or ["none"])[0].rpartition("/")[0]
    return (
        f"\n{format_values(aps)}\n"
        f"champion    {predicted['model']}\n"
        f"images      {image_folder}\n"
        f"report      {evaluated['report_url']}\n"
        f"MLflow      {evaluated['run_url']}"
    )


def _stage_line(record: "StageRecord") -> str:
    status = "up to date, skipped" if record.skipped else f"done in {record.seconds:.0f} s"
    details = record.outcome.get("summary") or record.outcome.get("reason") or ""
    return f"[{record.stage}] {status}" + (f": {details}" if details else "")


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Runs the whole chain as stages. Each finished stage is recorded in {output}/stages and
            skipped if its settings and inputs have not changed, so submitting the same job again
            resumes it.""",
            example="python workflows/end_to_end.py configs/quickstart.yaml",
            job=job,
            plan=plan,
            sections=("data", "model", "train", "evaluate", "track", "infer"),
        )
    )
