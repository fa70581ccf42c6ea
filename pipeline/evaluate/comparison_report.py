"""The report of a comparison: differences with intervals, and the images that changed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline.evaluate.changed_images import ChangedImage
from pipeline.evaluate.image_table import TableOrigin
from pipeline.evaluate.paired_bootstrap import Difference
from pipeline.evaluate.report import KIND_TITLES

COMPARISON_PAGE, COMPARISON_JSON = "report.md", "comparison.json"

_MAX_LISTED = 50


@dataclass(frozen=True)
class ClassDifference:
    """The difference in AP of one class. Keys of ``comparison.json``."""

    category_id: int
    name: str
    objects: int
    ap: Difference


@dataclass(frozen=True)
class KindComparison:
    """The comparison of one kind of metric. Keys of ``comparison.json``.

    Args:
        kind: "bbox", "segm" or "keypoints".
        ap: mean over the classes.
        per_class: every class with objects, the largest loss first.
    """

    kind: str
    ap: Difference
    per_class: tuple[ClassDifference, ...]


@dataclass(frozen=True)
class ComparisonReport:
    """What changed from detector A to detector B. Field names are keys of ``comparison.json``.

    Args:
        a: what A is, and how it was evaluated.
        b: what B is.
        images: number of images.
        resamples: number of resamples.
        confidence: of the intervals.
        kinds: the comparison of each kind that both measure.
        kind: the kind by which images are called better or worse.
        better: images that B does better on, the largest change first.
        worse: images that B does worse on.
        unchanged: number of other images.
        pictures: paths of the drawn images, relative to the report.
    """

    a: TableOrigin
    b: TableOrigin
    images: int
    resamples: int
    confidence: float
    kinds: tuple[KindComparison, ...]
    kind: str
    better: tuple[ChangedImage, ...]
    worse: tuple[ChangedImage, ...]
    unchanged: int
    pictures: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the report as plain data."""
        return asdict(self)

    def conclusion(self) -> str:
        """Return for each kind in one sentence which detector is better, if that is certain."""
        return "\n".join(
            f"{each.kind}/AP   {_points(each.ap.difference)} from A to B, "
            f"{self.confidence:.0%} interval {_points(each.ap.low)} to {_points(each.ap.high)}: "
            f"{_verdict(each.ap)}"
            for each in self.kinds
        )

    def to_markdown(self) -> str:
        """Return the report as a Markdown page."""
        percent = f"{self.confidence:.0%}"
        parts = [
            "# Comparison of two detectors",
            f"- A: `{self.a.weights}` (model `{self.a.model_digest[:12]}`)\n"
            f"- B: `{self.b.weights}` (model `{self.b.model_digest[:12]}`)\n"
            f"- on {self.images} images of `{self.a.shards}` (dataset "
            f"`{self.a.dataset_digest[:12]}`)",
            f"AP in percent. Differences are B minus A, with the {percent} interval of a paired "
            f"bootstrap over the images ({self.resamples} resamples): where it contains 0, these "
            "images do not show which detector is better.",
            "\n".join(
                [
                    f"| | A | B | difference | {percent} interval | |",
                    "|---|---:|---:|---:|---:|---|",
                    *(
                        f"| {KIND_TITLES[each.kind]} | {_cells(each.ap)} | {_verdict(each.ap)} |"
                        for each in self.kinds
                    ),
                ]
            ),
            f"## Images ({KIND_TITLES[self.kind].lower()})",
            f"B is better on {len(self.better)} images and worse on {len(self.worse)}; "
            f"{self.unchanged} are unchanged. The score of an image is its AP alone, with all "
            "classes in one ranking; images of equal scores are compared by missed objects and "
            f"false positives with score >= {self.a.score_threshold:g}.",
        ]
        for title, images in (("Worse", self.worse), ("Better", self.better)):
            if images:
                parts += [f"### {title}", _image_table(images)]
        if self.pictures:
            parts.append("Ground truth, A and B:")
            parts += [f"![{path}]({path})" for path in self.pictures]
        for each in self.kinds:
            parts += [
                f"## Classes ({KIND_TITLES[each.kind].lower()})",
                _class_table(each.per_class, percent),
            ]
        return "\n\n".join(parts) + "\n"


def _class_table(rows: Sequence[ClassDifference], percent: str) -> str:
    lines = [
        f"| {row.name} | {row.objects} | {_cells(row.ap)} | {_verdict(row.ap)} |" for row in rows
    ]
    head = f"| class | objects | A | B | difference | {percent} interval | |"
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|---|", *lines])


def _image_table(images: Sequence[ChangedImage]) -> str:
    lines = [
        f"| {each.file_name} | {each.objects} | {_score(each.score_a)} | {_score(each.score_b)} | "
        f"{each.missed_a} | {each.missed_b} | {each.false_a} | {each.false_b} |"
        for each in images[:_MAX_LISTED]
    ]
    head = (
        "| image | objects | score A | score B | missed A | missed B | false A | false B |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    more = len(images) - len(lines)
    note = [f"\n{more} more are in {COMPARISON_JSON}."] if more > 0 else []
    return "\n".join([head, *lines, *note])


def _cells(ap: Difference) -> str:
    return (
        f"{_percent(ap.value_a)} | {_percent(ap.value_b)} | {_points(ap.difference)} | "
        f"{_points(ap.low)} to {_points(ap.high)}"
    )


def _verdict(ap: Difference) -> str:
    if ap.low > 0:
        return "B is better"
    return "A is better" if ap.high < 0 else "not certain"


def _percent(value: float) -> str:
    return "-" if value < 0 else f"{100 * value:.1f}"


def _points(value: float) -> str:
    """Format a difference in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}"
