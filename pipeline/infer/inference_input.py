"""The input of a job of batch inference: of which kind it is, its plan, and its images again."""

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model.config.settings import ConfigError
from model.structures import Category
from pipeline import storage
from pipeline.config import InferConfig
from pipeline.extras import require_extra
from pipeline.infer.image_listing import VIDEO_SUFFIXES, name_below
from pipeline.infer.image_plan import plan_images
from pipeline.infer.inputs import InputChunk, is_shard_folder, plan_shards
from pipeline.infer.ledger import read_entries
from pipeline.infer.plan import KeyOf, Plan, plan_chunks
from pipeline.infer.sources.coco_document import COCO_SUFFIX, CocoDocument
from pipeline.infer.sources.folder import FolderImages
from pipeline.infer.sources.list_file import LIST_SUFFIX, ListFile
from pipeline.infer.sources.named_files import folder_of
from pipeline.infer.sources.parquet_files import PARQUET_SUFFIX, ParquetFiles, describe_file
from pipeline.infer.sources.source import ImageSource
from pipeline.shards.manifest import read_manifest


@dataclass(frozen=True)
class InferenceInput:
    """What a job predicts on.

    Args:
        url: of the input.
        source: lists and reads its images; None for a folder of shards.
    """

    url: str
    source: ImageSource | None

    def categories(self) -> Sequence[Category]:
        """Return the classes that the input itself names; empty if it names none."""
        if self.source is None:
            return read_manifest(self.url).categories
        return self.source.categories

    def plan(
        self, predictions_url: str, images_per_shard: int, bit_depth: int | None, key_of: KeyOf
    ) -> Plan:
        """Return what is to do; see `plan_images`."""
        if self.source is None:
            return plan_chunks(plan_shards(self.url), predictions_url, key_of)
        return plan_images(self.source, predictions_url, images_per_shard, bit_depth, key_of)

    def chunks(
        self, predictions_url: str, names: Iterator[str], bit_depth: int | None
    ) -> Iterator[InputChunk]:
        """Yield the chunks of some outputs again, as they are asked for."""
        if self.source is None:
            by_name = {chunk.name: chunk for chunk in plan_shards(self.url)}
            yield from (by_name[name] for name in names)
            return
        for name in names:
            for _, entry in read_entries(predictions_url, [name]):
                if entry is not None:
                    yield entry.chunk(self.source.url, bit_depth, self.source.reader)

    def has_files(self) -> bool:
        """Whether each image is a file of its own."""
        return self.image_url("x") is not None

    def describe(self) -> str:
        """Return what an input without image files is, for an error."""
        return "shards" if self.source is None else "Parquet files or a video"

    def image_url(self, name: str) -> str | None:
        """Return the URL of an image; None if it is no file of its own."""
        return None if self.source is None else self.source.image_url(name)


def open_input(url: str, settings: InferConfig, predictions_url: str) -> InferenceInput:
    """Find out of which kind an input is, and check what can be checked before it is listed.

    Args:
        url: a text file (.txt) of paths and URLs; a COCO document (.json); a Parquet file, or a
            folder of Parquet files with ``infer.image_column``; a video file; a folder of shards; a
            folder of images, or an image.
        settings: of the job.
        predictions_url: folder of the predictions, which is no input.

    Raises:
        ConfigError: the settings do not fit the input, or a column is wrong.
        MissingFileError: the input is not there.
        StorageError: it cannot be read, or is damaged.
        MissingPackagesError: videos need an extra.
    """
    suffix = posixpath.splitext(url)[1].lower()
    is_parquet = suffix == PARQUET_SUFFIX or settings.image_column is not None
    _check_settings(settings, is_coco=suffix == COCO_SUFFIX, is_parquet=is_parquet)
    if suffix in (LIST_SUFFIX, COCO_SUFFIX, PARQUET_SUFFIX, *VIDEO_SUFFIXES):
        # A folder may have such a name.
        if storage.is_file(url):
            if suffix == PARQUET_SUFFIX:
                _check_output(url, predictions_url, is_folder=False)
            return InferenceInput(url, _open_file(url, suffix, settings))
        if not storage.exists(url):
            raise storage.MissingFileError(f"{url}: no such file; check infer.inputs")
    if settings.image_column is not None:
        _check_output(url, predictions_url, is_folder=True)
        source = ParquetFiles(url, settings.image_column, settings.id_column, predictions_url)
        return InferenceInput(url, source)
    if is_shard_folder(url):
        if _is_same_folder(url, predictions_url):
            raise _overwritten(url, predictions_url)
        return InferenceInput(url, None)
    return InferenceInput(url, FolderImages(url, predictions_url))


def _open_file(url: str, suffix: str, settings: InferConfig) -> ImageSource:
    if settings.image_column is not None and suffix != PARQUET_SUFFIX:
        kind = "a text file" if suffix == LIST_SUFFIX else "a video"
        raise ConfigError([f"infer.image_column: is for Parquet files, not for {kind}"])
    if suffix == LIST_SUFFIX:
        return ListFile(url)
    if suffix == COCO_SUFFIX:
        return CocoDocument(url, settings.images or posixpath.dirname(url))
    if suffix == PARQUET_SUFFIX:
        if settings.image_column is None:
            raise ConfigError(
                [
                    f"infer.image_column: must name the column of images of {url}, which has "
                    f"{describe_file(url)}"
                ]
            )
        return ParquetFiles(url, settings.image_column, settings.id_column)
    require_extra("video", "infer.inputs")
    # Optional: the extra "video".
    from pipeline.infer.sources.video_file import VideoFrames  # noqa: PLC0415

    return VideoFrames(url)


def _check_settings(settings: InferConfig, is_coco: bool, is_parquet: bool) -> None:
    problems = []
    if settings.images is not None and not is_coco:
        problems.append("infer.images: is for a COCO document (.json) as infer.inputs")
    if settings.id_column is not None and not is_parquet:
        problems.append("infer.id_column: is for Parquet files; give infer.image_column too")
    if settings.image_column is not None and is_coco:
        problems.append("infer.image_column: is for Parquet files, not for a COCO document")
    if problems:
        raise ConfigError(problems)


def _check_output(url: str, predictions_url: str, is_folder: bool) -> None:
    """Refuse an output that could overwrite tables of the input, or would be read with them."""
    if is_folder:
        is_mixed = _lies_in(predictions_url, url) or _lies_in(url, predictions_url)
    else:
        is_mixed = _is_same_folder(folder_of(storage.absolute(url)), predictions_url)
    if is_mixed:
        raise _overwritten(url, predictions_url)


def _overwritten(url: str, predictions_url: str) -> ConfigError:
    return ConfigError(
        [
            f"infer.output: {predictions_url} and the input {url} must be folders apart, because "
            "the outputs are Parquet files too; name another folder"
        ]
    )


def _is_same_folder(url: str, other_url: str) -> bool:
    return _lies_in(url, other_url) and _lies_in(other_url, url)


def _lies_in(url: str, folder_url: str) -> bool:
    """Whether a folder is another one or below it, by whatever links it is named."""
    paths = [storage.local_path(each) for each in (url, folder_url)]
    real, real_folder = (
        each if path is None else str(path.resolve())
        for each, path in zip((url, folder_url), paths, strict=True)
    )
    return name_below(real, real_folder) is not None
