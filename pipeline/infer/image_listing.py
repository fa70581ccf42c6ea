"""List the images of a folder one by one, and count the other files."""

import logging
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence

from model.images.decode import IMAGE_SUFFIXES
from pipeline.infer.listed_image import ListedImage
from pipeline.storage.urls import local_path
from pipeline.storage.versions import list_versions

logger = logging.getLogger(__name__)

IMAGES_FOLDER = "pictures"
"""Folder of the drawn images, in that of the predictions or the report."""

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"),
    *(".mts", ".m2ts"),
)

NO_SUFFIX, NOT_UTF8 = "(no suffix)", "(name is not UTF-8)"
OF_THE_JOB = "(in the output folder)"
AMBIGUOUS = "(name with an empty, . or .. part)"

_REPORT_INTERVAL = 100_000  # files


class ImageListing:
    """The images below a URL.

    Args:
        url: a folder, or one image.
        output_url: folder of the predictions. If it is below the URL, what it holds is no input:
            the images that an earlier job has drawn would be predicted on.
        suffixes: extensions of the files to list, in lower case.

    Attributes:
        skipped: suffix -> number of other files.
        images: number of images listed.
    """

    def __init__(
        self, url: str, output_url: str = "", suffixes: Sequence[str] = IMAGE_SUFFIXES
    ) -> None:
        self.url = url
        self._suffixes = suffixes
        self.skipped: Counter[str] = Counter()
        self.images = 0
        below = name_below(output_url, url)
        self._output = f"{IMAGES_FOLDER}/" if below == "" else below

    def __iter__(self) -> Iterator[ListedImage]:
        """Yield the images, by names relative to the URL.

        Raises:
            StorageError: the store cannot be read.
        """
        self.images, self.skipped = 0, Counter()
        for number, file in enumerate(list_versions(self.url), start=1):
            if number % _REPORT_INTERVAL == 0:
                logger.info("listed %d files of %s", number, self.url)
            if (reason := self._reason_to_skip(file.name)) is not None:
                self.skipped[reason] += 1
            else:
                self.images += 1
                yield ListedImage(file.name, file.version)

    def _reason_to_skip(self, name: str) -> str | None:
        if self._output and name.startswith(self._output):
            return OF_THE_JOB
        if not _is_utf8(name):
            return NOT_UTF8
        # Object keys may have such parts; clients of stores drop them, and read another object.
        if name and any(part in ("", ".", "..") for part in name.split("/")):
            return AMBIGUOUS
        # The URL of a single image has a suffix, its name below itself is empty.
        suffix = posixpath.splitext(name or self.url)[1].lower()
        return None if suffix in self._suffixes else suffix or NO_SUFFIX


def name_below(url: str, folder_url: str) -> str | None:
    """Return the name of a folder below another, with "/" at its end.

    Empty if they are the same folder; None if the first is not below the second.
    """
    paths = [local_path(each) for each in (url, folder_url)]
    below, folder = (
        (each if path is None else str(path.absolute())).rstrip("/")
        for each, path in zip((url, folder_url), paths, strict=True)
    )
    if not url or not f"{below}/".startswith(f"{folder}/"):
        return None
    return below[len(folder) + 1 :] and f"{below[len(folder) + 1 :]}/"


def _is_utf8(name: str) -> bool:
    # Linux allows any bytes in names, Parquet does not.
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
