"""The job that reports on a dataset before it is trained on."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from model.config.settings import ConfigError
from pipeline import storage
from pipeline.config import RunConfig
from pipeline.draw import encode_png
from pipeline.explore.annotations import read_annotations
from pipeline.explore.class_counts import ClassCount, ClassRow, count_classes, join_splits
from pipeline.explore.plots import (
    plot_box_shapes,
    plot_classes,
    plot_image_shapes,
    plot_object_sizes,
    plot_objects_per_image,
)
from pipeline.explore.report import REPORT_PAGE, DataReport, SplitReport
from pipeline.explore.samples import draw_samples
from pipeline.output_layout import EXPLORATION_FOLDER, SPLITS, split_shards_url
from pipeline.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from pipeline.stream.training_plan import (
    describe_sampling,
    plan_training,
    read_training_manifest,
)

logger = logging.getLogger(__name__)

_SAMPLES = "samples.png"


@dataclass(frozen=True)
class ExplorationResult:
    """What was written.

    Args:
        report_url: URL of the page.
        samples_url: URL of the drawn samples; None if the dataset does not fit the model.
        summary: sentence about the samples.
    """

    report_url: str
    samples_url: str | None
    summary: str


def run_exploration(config: RunConfig) -> ExplorationResult:
    """Draw training samples, count and plot what is in the shards, and write a report.

    Raises:
        StorageError: there are no training shards, or a shard cannot be read.
        ConfigError: the data settings leave no image to train on.
    """
    folder = storage.join(config.output, EXPLORATION_FOLDER)
    splits = {split: _read_split(url) for split, url in _existing_splits(config)}
    train = splits["train"]
    logger.info("drawing %d training samples", config.explore.samples)
    sheet, sentence = _draw(config, train)
    logger.info("plotting")
    classes = join_splits(
        {
            split: (
                each.manifest.categories,
                count_classes(each.annotations, len(each.manifest.categories)),
            )
            for split, each in splits.items()
        }
    )
    plots = _plot(config, splits, classes)
    repeats, notes = _describe_training(config, train, classes)
    files = {file: data for file, data in plots.values()}
    if sheet is not None:
        files[_SAMPLES] = sheet
    report = DataReport(
        name=config.name,
        splits=splits,
        classes=classes,
        repeats=repeats,
        notes=notes,
        samples=sentence,
        images={title: file for title, (file, _) in plots.items()},
        sample_file=None if sheet is None else _SAMPLES,
    )
    for file, data in files.items():
        storage.write_bytes(storage.join(folder, file), data)
    page = storage.join(folder, REPORT_PAGE)
    storage.write_bytes(page, report.to_markdown().encode())
    samples_url = None if sheet is None else storage.join(folder, _SAMPLES)
    return ExplorationResult(page, samples_url, sentence)


def _existing_splits(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield the splits and their URLs; validation shards are optional, as in training."""
    for split in SPLITS:
        url = split_shards_url(config, split)
        if split == "train" or storage.exists(storage.join(url, MANIFEST_NAME)):
            yield split, url
        else:
            logger.warning("no validation shards at %s: the report is on training alone", url)


def _read_split(url: str) -> SplitReport:
    manifest = read_manifest(url)
    logger.info("reading the annotations of %d images in %s", manifest.rows, url)
    return SplitReport(url, manifest, read_annotations(url, manifest))


def _draw(config: RunConfig, train: SplitReport) -> tuple[bytes | None, str]:
    """Return a PNG file of samples, None if the training would refuse the data, and a sentence."""
    try:
        sheet = draw_samples(config, train.manifest, train.url)
    except ConfigError as error:
        logger.warning("no samples are drawn, because a training would not start: %s", error)
        return None, f"None, because a training would not start. {error}"
    first = config.explore.first_step
    bad = f"; {sheet.unreadable} rows were unreadable, so gray" if sheet.unreadable else ""
    return (
        encode_png(sheet.image),
        f"The first {sheet.samples} images from step {first} on, augmented and resized as in "
        f"training, without the padding of the batch{bad}.",
    )


def _plot(
    config: RunConfig, splits: Mapping[str, SplitReport], classes: Sequence[ClassRow]
) -> dict[str, tuple[str, bytes]]:
    """Return title -> file name and PNG file."""
    objects = {split: each.annotations.objects() for split, each in splits.items()}
    sides = config.model.input
    return {
        "Objects per class": ("classes.png", plot_classes(classes, list(splits))),
        "Object sizes": (
            "object_sizes.png",
            plot_object_sizes(objects, sides.short_side, sides.long_side),
        ),
        "Shapes of boxes": ("box_shapes.png", plot_box_shapes(objects)),
        "Shapes of images": ("image_shapes.png", plot_image_shapes(objects)),
        "Objects per image": ("objects_per_image.png", plot_objects_per_image(objects)),
    }


def _describe_training(
    config: RunConfig, train: SplitReport, classes: Sequence[ClassRow]
) -> tuple[dict[str, float], list[str]]:
    """Return how often images of each rare class are seen, and sentences about an epoch."""
    manifest: Manifest = read_training_manifest(config, train.url)
    try:
        plan = plan_training(config, manifest)
    except ValueError as error:
        return {}, [f"a training would not start: {error}"]
    notes = [
        f"steps in an epoch of training: {plan.steps_per_epoch}, of {plan.global_batch} images",
        *describe_sampling(config, plan),
    ]
    if plan.weights is None:
        return {}, notes
    threshold = config.data.repeat_threshold * plan.image_count
    images = {row.name: row.of_split.get("train", ClassCount()).images for row in classes}
    rare = {name: n for name, n in images.items() if 0 < n < threshold}
    return {name: (threshold / n) ** 0.5 for name, n in rare.items()}, notes
