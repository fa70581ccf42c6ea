"""The trials of a sweep as a table, for the terminal and for the report."""

from collections.abc import Sequence

from pipeline.config import RunConfig
from pipeline.rates import format_duration
from pipeline.sweep.ledger import TrialRecord
from pipeline.sweep.proposals import SECONDS, objectives
from pipeline.sweep.search_space import format_value, short_names


def trial_table(config: RunConfig, trials: Sequence[TrialRecord]) -> list[list[str]]:
    """Return the rows of the table, the first with the names of the columns; the best trial first.

    Finished trials come before stopped ones, and failed ones last.
    """
    sweep = config.sweep
    names = short_names(list(sweep.space))
    metrics = [name for name in (sweep.metric, sweep.second_metric) if name not in (None, SECONDS)]
    head = ["trial", *map(str, metrics), "status", "step", "images", "time", *names.values()]
    sign = -1.0 if sweep.mode == "max" else 1.0
    order = {"finished": 0, "running": 1, "stopped": 2, "failed": 3}

    def rank(trial: TrialRecord) -> tuple[int, bool, float]:
        value = objectives(sweep, trial)[0]
        return order[trial.status], value != value, sign * value if value == value else 0.0

    return [head] + [
        [
            trial.trial_id,
            *(
                "-" if value != value else f"{value:.4f}"
                for value in objectives(sweep, trial)[: len(metrics)]
            ),
            _status(trial),
            str(trial.steps),
            str(trial.images_seen),
            format_duration(trial.seconds),
            *(format_value(trial.values[key]) if key in trial.values else "-" for key in names),
        ]
        for trial in sorted(trials, key=rank)
    ]


def _status(trial: TrialRecord) -> str:
    text = {"stopped": "stopped early", "running": "unfinished"}.get(trial.status, trial.status)
    if trial.copies:
        text += f", copied {', '.join(copy.source for copy in trial.copies)}"
    if trial.weights is not None:
        text += ", warm start"
    return text


def errors(trials: Sequence[TrialRecord]) -> list[str]:
    """Return a line for each failed trial: why."""
    return [
        f"trial {trial.trial_id} failed: {_first_line(trial.error or '')}"
        for trial in trials
        if trial.status == "failed"
    ]


def _first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])
