"""The report of an evaluation: numbers, per-class table, provenance, pictures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline.evaluate.coco_metrics import ClassMetrics, Metrics, numbers_of
from pipeline.evaluate.voc_metrics import NUMBER as VOC_NUMBER

KIND_NAMES = {"bbox": "Boxes", "segm": "Masks", "keypoints": "Keypoints", "proposals": "Proposals"}


@dataclass(frozen=True)
class EvaluationReport:
    """What was measured, of what, on what.

    Args:
        name: of the run.
        weights: checkpoint URL or registered version.
        model_digest: SHA-256 of weights and settings.
        shards: URL of the data.
        dataset_digest: of the data.
        metrics: the numbers.
        failures: ``file name: reason`` of images that could not be read.
        pictures: file names below the report.
    """

    name: str
    weights: str
    model_digest: str
    shards: str
    dataset_digest: str
    metrics: Metrics
    failures: tuple[str, ...]
    pictures: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """As plain data."""
        return asdict(self)

    def to_markdown(self) -> str:
        """As a page for people."""
        values = self.metrics.values
        kinds = [kind for kind in KIND_NAMES if f"{kind}/{numbers_of(kind)[0]}" in values]
        parts = [
            f"# Evaluation of {self.name}",
            f"{self.metrics.images} images of `{self.shards}` (data `{self.dataset_digest[:12]}`), "
            f"weights `{self.weights}` (model `{self.model_digest[:12]}`).",
            *_numbers_tables(self.metrics, kinds),
            *_voc_line(self.metrics),
            *self.metrics.notes,
        ]
        if self.metrics.per_class:
            parts += ["## Classes", _class_table(self.metrics.per_class, kinds)]
        if self.failures:
            shown = "\n".join(f"- {failure}" for failure in self.failures[:50])
            parts += [f"## {len(self.failures)} unreadable images, counted as empty", shown]
        if self.pictures:
            parts += ["## Pictures", "Ground truth on the left, predictions on the right."]
            parts += [f"![{picture}]({picture})" for picture in self.pictures]
        return "\n\n".join(parts) + "\n"


def _numbers_tables(metrics: Metrics, kinds: Sequence[str]) -> list[str]:
    """A table for the kinds that share their numbers."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for kind in kinds:
        numbers = numbers_of(kind)
        cells = (_percent(metrics.values[f"{kind}/{number}"]) for number in numbers)
        rows.setdefault(numbers, []).append(f"| {KIND_NAMES[kind]} | {' | '.join(cells)} |")
    return [
        "\n".join([f"| | {' | '.join(numbers)} |", f"|---|{'---:|' * len(numbers)}", *of_them])
        for numbers, of_them in rows.items()
    ]


def _voc_line(metrics: Metrics) -> list[str]:
    if VOC_NUMBER not in metrics.values:
        return []
    return [f"VOC's mean AP of boxes at IoU 0.5: {_percent(metrics.values[VOC_NUMBER])}"]


def _class_table(per_class: Sequence[ClassMetrics], kinds: Sequence[str]) -> str:
    columns = [f"{kind}/{number}" for kind in kinds for number in ("AP", "AP50")]
    titles = [f"{KIND_NAMES[kind]} {number}" for kind in kinds for number in ("AP", "AP50")]
    if any(VOC_NUMBER in row.values for row in per_class):
        columns.append(VOC_NUMBER)
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
    """COCO's habit: AP in percent; a dash where there was nothing to measure."""
    return "-" if value < 0 else f"{100 * value:.1f}"
