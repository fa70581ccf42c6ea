"""Check that the annotations of a configuration exist, before anything starts."""

from collections.abc import Iterator, Sequence

from model.config.user_functions import UserCodeError, find_function
from pipeline import storage
from pipeline.config import RunConfig, SplitConfig
from pipeline.output_layout import SPLITS, split_shards_url
from pipeline.shards.manifest import read_manifest
from pipeline.storage.retries import missing_file


def check_sources(config: RunConfig, splits: Sequence[str] | None = None) -> None:
    """Check that the annotations of splits can be found; nothing is read of them.

    Args:
        config: settings of the job.
        splits: names of the splits; None for all.

    Raises:
        MissingFileError: a file or folder does not exist.
        ConfigError: a function does not exist.
        StorageError: the manifest of existing shards cannot be read, or a function's module fails.
    """
    source = config.data.source
    for split in config.data.split_names if splits is None else splits:
        parts = config.data.parts(split)
        for url in (url for part in parts for url in _sources(part)):
            if not storage.exists(url):
                raise missing_file(url)
        for function in (part.function for part in parts if part.function is not None):
            _check_function(function)
        existing = [part.shards for part in parts if part.shards is not None]
        if not parts and not (source == "shapes" and split in SPLITS):
            existing = [split_shards_url(config, split)]  # this job only reads them
        for url in existing:
            read_manifest(url)


def _check_function(name: str) -> None:
    try:
        find_function(name, "data")
    except UserCodeError as error:
        raise storage.StorageError(str(error)) from error


def _sources(part: SplitConfig) -> Iterator[str]:
    """Yield what is read here; images may lie where only the workers of the cluster see them."""
    yield from (url for url in (part.annotations, part.image_ids, part.root) if url is not None)
