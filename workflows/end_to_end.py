"""Every job in a row: shards, training, evaluation, registration, batch inference."""

import sys

from pipeline.config import RunConfig
from pipeline.stages import StageRecord, run_chain
from workflows.command_line import figures, main


def job(config: RunConfig) -> str:
    """Run the stages that do not stand yet, telling of each as it ends."""
    records = {}
    for record in run_chain(config):
        records[record.stage] = record
        print(_line(record), flush=True)
    measured = records["evaluate"].outcome
    predicted = records["infer"].outcome
    aps = {key: measured["metrics"][key] for key in measured["metrics"] if key.endswith("/AP")}
    pictures = (predicted["pictures"] or ["none"])[0].rpartition("/")[0]
    return (
        f"\n{figures(aps)}\n"
        f"champion    {predicted['model']}\n"
        f"pictures    {pictures}\n"
        f"report      {measured['report_url']}\n"
        f"MLflow      {measured['run_url']}"
    )


def _line(record: StageRecord) -> str:
    how = "stands, skipped" if record.skipped else f"done in {record.seconds:.0f} s"
    about = record.outcome.get("summary") or record.outcome.get("reason") or ""
    return f"[{record.stage}] {how}" + (f": {about}" if about else "")


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Runs the whole chain as stages. Each finished stage is remembered below {output}/stages
            and skipped when its settings and inputs have not changed, so submitting the same job
            again resumes it.""",
            example="python workflows/end_to_end.py configs/quickstart.yaml",
            job=job,
            sections=("data", "model", "train", "evaluate", "track", "infer"),
        )
    )
