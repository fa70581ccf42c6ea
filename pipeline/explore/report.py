"""The page of a data report: counts and tables, with links to plots and drawn samples.

Shapes: N images, K classes.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline import storage
from pipeline.explore.annotations import Annotations
from pipeline.explore.class_counts import ClassCount, ClassRow
from pipeline.explore.plots import COCO_SIDES, objects_per_image
from pipeline.shards.manifest import QUARANTINE_NAME, Manifest

REPORT_PAGE = "report.md"

_DETAIL = 120  # characters of an example


@dataclass(frozen=True)
class SplitReport:
    """One split of the dataset.

    Args:
        url: folder of the shards.
        manifest: their manifest.
        annotations: all annotations, with crowd regions.
    """

    url: str
    manifest: Manifest
    annotations: Annotations


@dataclass(frozen=True)
class DataReport:
    """What the page says.

    Args:
        name: name of the run.
        splits: split -> its report.
        classes: the occurrences of each class.
        repeats: name of a class -> how often its images are seen per epoch; empty if none is
            repeated.
        notes: sentences about the training.
        samples: sentence about the drawn samples.
        images: title of a plot -> file name beside the page.
        sample_file: file name of the drawn samples; None if there are none.
    """

    name: str
    splits: Mapping[str, SplitReport]
    classes: Sequence[ClassRow]
    repeats: Mapping[str, float]
    notes: Sequence[str]
    samples: str
    images: Mapping[str, str]
    sample_file: str | None

    def to_markdown(self) -> str:
        """Return the report as a Markdown page."""
        parts = [f"# Data of {self.name}"]
        for split, report in self.splits.items():
            parts.append(
                f"{split}: `{report.url}` (dataset `{report.manifest.digest[:12]}`): "
                f"{report.manifest.summary()}."
            )
        if notes := [*self.notes, *self._class_notes()]:
            parts.append("\n".join(f"- {note}." for note in notes))
        parts += ["## Images and objects", _table(*self._counts())]
        parts += [f"![{title}]({file})" for title, file in self.images.items()]
        parts += ["## Training samples", self.samples]
        if self.sample_file is not None:
            parts.append(f"![Training samples]({self.sample_file})")
        parts += ["## Classes", _table(*self._class_table())]
        parts += ["## Records left out or corrected", *self._quarantine()]
        return "\n\n".join(parts) + "\n"

    def _counts(self) -> tuple[list[str], list[list[str]]]:
        columns = {split: _split_counts(report) for split, report in self.splits.items()}
        names = list(next(iter(columns.values())))
        rows = [[name, *(counts[name] for counts in columns.values())] for name in names]
        return ["", *columns], rows

    def _class_notes(self) -> Iterator[str]:
        for split in self.splits:
            empty = [row.name for row in self.classes if not _count(row, split).objects]
            if empty:
                yield f"classes without an object in {split} ({len(empty)}): {', '.join(empty)}"

    def _class_table(self) -> tuple[list[str], list[list[str]]]:
        head = ["class"]
        for split in self.splits:
            head += [f"{split} images", f"{split} objects"]
        head += ["seen per epoch"] if self.repeats else []
        rows = []
        for row in self.classes:
            counts = [_count(row, split) for split in self.splits]
            cells = [str(n) for count in counts for n in (count.images, count.objects)]
            if self.repeats:
                cells.append(f"{self.repeats.get(row.name, 1.0):.2f}" if counts[0].images else "-")
            rows.append([_escape(row.name), *cells])
        return head, rows

    def _quarantine(self) -> Iterator[str]:
        for split, report in self.splits.items():
            manifest = report.manifest
            if not manifest.reasons and not manifest.corrected:
                yield f"{split}: none."
                continue
            examples = _read_examples(report.url)
            rows = [
                [reason, str(number), result, _escape(examples.get(reason, ""))]
                for result, reasons in (
                    ("left out", manifest.reasons),
                    ("corrected", manifest.corrected),
                )
                for reason, number in sorted(reasons.items(), key=lambda item: -item[1])
            ]
            yield f"{split} (all are in `{storage.join(report.url, QUARANTINE_NAME)}`):"
            yield _table(["reason", "records", "result", "first of them"], rows)


def _count(row: ClassRow, split: str) -> ClassCount:
    return row.of_split.get(split, ClassCount())


def _split_counts(report: SplitReport) -> dict[str, str]:
    objects = report.annotations.objects()
    images = max(1, len(objects.sizes))
    per_image = objects_per_image(objects)
    sides = np.sqrt(objects.areas)
    small, medium = COCO_SIDES
    counts = {
        "images": f"{len(objects.sizes)}",
        "images without objects": _share((per_image == 0).sum(), images),
        "objects": f"{len(objects.labels)}",
        "crowd regions": f"{report.annotations.iscrowd.sum()}",
        "objects per image (mean, median, maximum)": _spread(per_image, ".1f"),
        "image width (mean, median, maximum)": _spread(objects.sizes[:, 1]),
        "image height (mean, median, maximum)": _spread(objects.sizes[:, 0]),
        f"small objects (below {small}x{small} pixels)": _share((sides < small).sum(), len(sides)),
        "medium objects": _share(((sides >= small) & (sides < medium)).sum(), len(sides)),
        f"large objects (from {medium}x{medium} pixels)": _share(
            (sides >= medium).sum(), len(sides)
        ),
        "objects without a mask": f"{report.manifest.counts.get('without_mask', 0)}",
    }
    if report.manifest.keypoints is not None:
        counts["objects with keypoints"] = f"{report.manifest.counts.get('with_keypoints', 0)}"
    return counts


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / max(1, whole):.1%})"


def _spread(values: np.ndarray, form: str = ".0f") -> str:
    if not len(values):
        return "-"
    return f"{values.mean():{form}}, {np.median(values):.0f}, {values.max():.0f}"


def _read_examples(shards_url: str) -> dict[str, str]:
    """Return the first record of each reason: its file, id and detail."""
    try:
        text = storage.read_bytes(storage.join(shards_url, QUARANTINE_NAME)).decode()
    except storage.MissingFileError:
        return {}
    examples: dict[str, str] = {}
    for line in text.splitlines():
        record = json.loads(line)
        number = record.get("annotation_id")
        named = record.get("file") or ""
        named += f", annotation {number}" if number is not None else ""
        detail = f": {record['detail']}" if record.get("detail") else ""
        examples.setdefault(record["reason"], f"{named}{detail}"[:_DETAIL])
    return examples


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
