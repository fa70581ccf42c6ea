"""The report of a sweep: a page with a table and plots, as files and in the sweep's MLflow run."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.sweep.facts import trial_facts
from pipeline.sweep.importance import Importance, measure_importance
from pipeline.sweep.ledger import TrialRecord
from pipeline.sweep.plots import (
    plot_curves,
    plot_importance,
    plot_parallel_coordinates,
    plot_rate_by_batch,
)
from pipeline.sweep.results import best_tradeoffs
from pipeline.sweep.search_space import format_values
from pipeline.sweep.trial import sweep_folder
from pipeline.sweep.trial_table import as_markdown, errors, trial_table
from pipeline.track.mlflow_run import TrackedRun

REPORT_PAGE = "report.md"


def write_report(
    config: RunConfig, run: TrackedRun, trials: Sequence[TrialRecord], best: TrialRecord
) -> str:
    """Write the page and its plots to the sweep's folder and to its run; return the page's URL."""
    importance = measure_importance(config.sweep, trials)
    plots = _plots(config, trials, importance)
    page = _page(config, trials, best, importance, {t: name for t, (name, _) in plots.items()})
    files = {name: content for name, content in plots.values()} | {REPORT_PAGE: page.encode()}
    for name, content in files.items():
        storage.write_bytes(storage.join(sweep_folder(config), name), content)
    with tempfile.TemporaryDirectory(prefix="sweep-report-") as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.write_bytes(content)
            run.artifacts.file(path, "sweep")
    return storage.join(sweep_folder(config), REPORT_PAGE)


def _plots(
    config: RunConfig, trials: Sequence[TrialRecord], importance: Importance
) -> dict[str, tuple[str, bytes]]:
    """Return title -> file name and PNG file."""
    sweep = config.sweep
    facts = {trial.trial_id: trial_facts(config, trial.values) for trial in trials}
    plots = {
        f"{sweep.metric} over images": ("curves.png", plot_curves(sweep, trials)),
        "Learning rate by batch size": (
            "learning_rate.png",
            plot_rate_by_batch(sweep, trials, facts),
        ),
        "Parallel coordinates": (
            "parallel_coordinates.png",
            plot_parallel_coordinates(sweep, trials),
        ),
    }
    if importance.shares:
        plots["Importance"] = ("importance.png", plot_importance(importance.shares))
    return plots


def _page(
    config: RunConfig,
    trials: Sequence[TrialRecord],
    best: TrialRecord,
    importance: Importance,
    plots: dict[str, str],
) -> str:
    sweep = config.sweep
    value = best.metrics.get(f"val/{sweep.metric}", best.metrics.get(sweep.metric, float("nan")))
    lines = [
        f"# Sweep {config.name}",
        "",
        f"Searcher {sweep.searcher}, scheduler {sweep.scheduler}, {len(trials)} trials. The best "
        f"is trial {best.trial_id} with {sweep.metric} {value:.4f}: {format_values(best.values)}.",
        "`best.yaml` is its configuration, for the job train.",
        "",
        as_markdown(trial_table(config, trials)),
        "",
        *(f"- {line}" for line in errors(trials)),
    ]
    if front := best_tradeoffs(trials, sweep):
        lines += [
            "",
            f"## Trade-offs of {sweep.metric} and {sweep.second_metric}",
            "",
            "No other finished trial is better in both:",
            "",
            as_markdown(trial_table(config, front)),
        ]
    for title, name in plots.items():
        lines += ["", f"## {title}", ""]
        if title == "Importance":
            lines += [importance.method, ""]
        lines.append(f"![{title}]({name})")
    if not importance.shares:
        lines += ["", "## Importance", "", importance.method]
    return "\n".join(lines) + "\n"
