"""The report of an evaluation: metrics, per-class table, provenance, images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from pipeline.evaluate.metrics import VOC_METRIC, ClassMetrics, Metrics, metric_names

REPORT_PAGE, REPORT_JSON = "report.md", "report.json"
KIND_TITLES = {"bbox": "Boxes", "segm": "Masks", "keypoints": "Keypoints", "proposals": "Proposals"}


@dataclass(frozen=True)
class EvaluationReport:
    """What was evaluated, on which data, and the metrics. Field names are keys of ``report.json``.

    Args:
        name: name of the run.
        weights: checkpoint URL or registered version.
        model_digest: SHA-256 of weights and settings.
        shards: URL of the dataset.
        dataset_digest: digest of the dataset.
        metrics: the metrics.
        failures: ``file name: reason`` of images that could not be read.
        pictures: paths of the drawn images, relative to the report.
        plots: paths of the plots.
        worst: title -> paths of the drawn images with the most mistakes.
        split: name of the split.
    """

    name: str
    weights: str
    model_digest: str
    shards: str
    dataset_digest: str
    metrics: Metrics
    failures: tuple[str, ...]
    pictures: tuple[str, ...]
    plots: tuple[str, ...] = ()
    worst: dict[str, tuple[str, ...]] = field(default_factory=dict)
    split: str = "val"

    def to_json(self) -> dict[str, object]:
        """Return the report as plain data."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Return the report as a Markdown page."""
        values = self.metrics.values
        kinds = [kind for kind in KIND_TITLES if f"{kind}/{metric_names(kind)[0]}" in values]
        parts = [
            f"# Evaluation of {self.name} on {self.split}",
            f"{self.metrics.images} images of `{self.shards}` (split {self.split}, dataset "
            f"`{self.dataset_digest[:12]}`), weights `{self.weights}` "
            f"(model `{self.model_digest[:12]}`).",
            *_metric_tables(self.metrics, kinds),
        ]
        if VOC_METRIC in values:
            parts.append(f"Pascal VOC mean AP of boxes at IoU 0.5: {_percent(values[VOC_METRIC])}")
        parts += self.metrics.notes
        if self.metrics.per_class:
            parts += ["## Classes", _class_table(self.metrics.per_class, kinds)]
        if self.failures:
            shown = "\n".join(f"- {failure}" for failure in self.failures[:50])
            parts += [f"## {len(self.failures)} unreadable images, counted as empty", shown]
        if self.pictures:
            parts += ["## Images", "Ground truth on the left, predictions on the right."]
            parts += [f"![{path}]({path})" for path in self.pictures]
        for title, paths in self.worst.items():
            parts += [f"## {title}", *(f"![{path}]({path})" for path in paths)]
        if self.plots:
            parts += ["## Plots", *(f"![{path}]({path})" for path in self.plots)]
        return "\n\n".join(parts) + "\n"


def _metric_tables(metrics: Metrics, kinds: Sequence[str]) -> list[str]:
    """Return one table for each group of kinds that have the same metrics."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for kind in kinds:
        names = metric_names(kind)
        cells = (_percent(metrics.values[f"{kind}/{name}"]) for name in names)
        rows.setdefault(names, []).append(f"| {KIND_TITLES[kind]} | {' | '.join(cells)} |")
    return [
        "\n".join([f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}", *lines])
        for names, lines in rows.items()
    ]


def _class_table(per_class: Sequence[ClassMetrics], kinds: Sequence[str]) -> str:
    columns = [f"{kind}/{name}" for kind in kinds for name in ("AP", "AP50")]
    titles = [f"{KIND_TITLES[kind]} {name}" for kind in kinds for name in ("AP", "AP50")]
    if any(VOC_METRIC in row.values for row in per_class):
        columns.append(VOC_METRIC)
        titles.append("VOC AP50")
    head = f"| class | objects | {' | '.join(titles)} |\n|---|---:|{'---:|' * len(titles)}"
    rows = [
        f"| {row.name} | {row.objects} | "
        + " | ".join(_percent(row.values[column]) for column in columns)
        + " |"
        for row in per_class
    ]
    return "\n".join([head, *rows])


def _percent(value: float) -> str:
    """Format AP in percent, as COCO does; a dash for -1, nothing to measure."""
    return "-" if value < 0 else f"{100 * value:.1f}"
