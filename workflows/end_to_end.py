"""Run every job in order: shards, sweep, training, evaluation, registration, batch inference."""

import sys
from typing import TYPE_CHECKING

from pipeline.config import RunConfig
from workflows.arguments import Mode, Option
from workflows.command_line import format_values, main

if TYPE_CHECKING:
    from pipeline.chain.selection import Selection
    from pipeline.chain.stage import StageRecord


def plan(config: RunConfig) -> str:
    """Say where the results of the stages are written."""
    return f"running all stages that are not up to date; results in {config.output}"


def job(
    config: RunConfig, first: str | None = None, last: str | None = None, only: str | None = None
) -> str:
    """Run the stages that are not up to date, printing a line as each one ends."""
    from pipeline.chain.failures import StageError
    from pipeline.chain.report import write_report
    from pipeline.chain.run import run_chain
    from pipeline.chain.summary import summary_table
    from pipeline.track.promotion_record import NotPromotedError

    records: dict[str, StageRecord] = {}
    try:
        for record in run_chain(config, _selection(first, last, only)):
            records[record.stage] = record
            print(_stage_line(record), flush=True)
    except (StageError, NotPromotedError):
        if records:
            print(f"\n{summary_table(records.values())}", flush=True)
        # It shows how far the chain came, and why it ended.
        write_report(config)
        raise
    return f"\n{summary_table(records.values())}\n\n{_results(records, write_report(config))}"


def _selection(first: str | None, last: str | None, only: str | None) -> "Selection":
    from model.config.settings import ConfigError
    from pipeline.chain.selection import Selection

    if only is not None and (first is not None or last is not None):
        raise ConfigError(["--only cannot be combined with --from or --until"])
    return Selection(only or first, only or last)


def _stage_line(record: "StageRecord") -> str:
    status = "up to date, skipped" if record.skipped else f"done in {record.seconds:.0f} s"
    details = record.outcome.get("summary") or record.outcome.get("reason") or ""
    return f"[{record.stage}] {status}" + (f": {details}" if details else "")


def _results(records: "dict[str, StageRecord]", report_url: str) -> str:
    """Return the main results of the stages that took part."""
    lines = []
    if evaluated := records.get("evaluate"):
        metrics = evaluated.outcome["metrics"]
        aps = {name: ap for name, ap in metrics.items() if name.endswith("/AP")}
        lines += [format_values(aps)] if aps else []
    if predicted := records.get("infer"):
        images = predicted.outcome["pictures"]
        lines.append(f"champion    {predicted.outcome['model']}")
        lines.append(f"images      {images[0].rpartition('/')[0] if images else 'none'}")
    lines.append(f"report      {report_url}")
    if evaluated:
        lines.append(f"MLflow      {evaluated.outcome['run_url']}")
    return "\n".join(lines)


def plan_dry_run(config: RunConfig) -> str:
    """Say that nothing is changed."""
    return f"comparing the stages in {config.output} with these settings; nothing is changed"


def dry_run(
    config: RunConfig, first: str | None = None, last: str | None = None, only: str | None = None
) -> str:
    """Return which stages would run, which are up to date, and why."""
    from pipeline.chain.plan import plan_chain
    from pipeline.chain.summary import plan_table

    return plan_table(plan_chain(config, _selection(first, last, only)))


def show_status(
    config: RunConfig, first: str | None = None, last: str | None = None, only: str | None = None
) -> str:
    """Return the progress of the chain, also while it runs elsewhere."""
    import time

    from model.config.settings import ConfigError
    from pipeline.chain.plan import chain_status
    from pipeline.chain.summary import status_table

    if first or last or only:
        raise ConfigError(["--status shows all stages, without --from, --until and --only"])
    return status_table(chain_status(config), time.time())


MODES = (
    Mode(
        "--dry-run",
        "say which stages would run, which are up to date, and why; change nothing",
        dry_run,
        plan_dry_run,
        needs_cluster=False,
    ),
    Mode(
        "--status",
        "show the progress of the chain in this output; works from another machine too",
        show_status,
        plan_dry_run,
        needs_cluster=False,
    ),
)

OPTIONS = (
    Option(
        "--from",
        "STAGE",
        "begin with this stage; results of earlier ones are used without being checked",
        "first",
    ),
    Option("--until", "STAGE", "end with this stage", "last"),
    Option("--only", "STAGE", "run this stage alone", "only"),
)


if __name__ == "__main__":
    sys.exit(
        main(
            description="""
            Runs the whole chain as stages: train_shards, val_shards, sweep (with chain.sweep=true),
            train, evaluate, register, infer. Each finished stage is recorded in {output}/stages and
            skipped if its settings, inputs and sources have not changed, so submitting the same job
            again resumes it. {output}/report.html shows the results. docs/CHAIN.md has the exit
            statuses.""",
            example="python workflows/end_to_end.py configs/quickstart.yaml",
            job=job,
            plan=plan,
            sections=("data", "model", "train", "evaluate", "track", "infer", "sweep", "chain"),
            modes=MODES,
            options=OPTIONS,
            extra=lambda config: "sweep" if config.chain.sweep else "train",
        )
    )
