"""Find the images and videos that a command line names."""

import fnmatch
import glob
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.images.decode import IMAGE_SUFFIXES, Pixels, decode_image
from pipeline import storage
from pipeline.infer.image_listing import VIDEO_SUFFIXES, ImageListing
from pipeline.predict.errors import PredictError
from pipeline.storage.urls import local_path
from pipeline.storage.versions import file_url

_WILDCARDS = "*?["


@dataclass(frozen=True)
class InputFile:
    """An image or a video.

    Args:
        url: where it is.
        source_name: its name, relative to the folder or pattern of the command line.
        name: that of its result, relative to the output; unique.
    """

    url: str
    source_name: str
    name: str
    error: None = None

    def decode(self) -> Pixels:
        """Read an image and return its pixels, (H, W, 3) uint8 RGB, upright.

        Raises:
            StorageError: it cannot be read.
            DecodeError: it is damaged, too large, or no image.
        """
        return decode_image(storage.read_bytes(self.url))


@dataclass
class FoundInputs:
    """What was found.

    Attributes:
        images: in the order of the command line, those of a folder by name.
        videos: likewise.
        skipped: suffix -> number of files in folders that are neither images nor videos.
    """

    images: list[InputFile] = field(default_factory=list)
    videos: list[InputFile] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def record_names(self) -> dict[str, str]:
        """Return the name of each input in records, by URL: no two images have the same.

        It is the ``source_name``; if inputs share one, all names are relative to the folder that
        they have in common.
        """
        files = [*self.images, *self.videos]
        names = {file.url: file.source_name for file in files}
        if len(set(names.values())) == len(names):
            return names
        folder = posixpath.commonpath([posixpath.dirname(url) for url in names])
        return {url: url.removeprefix(folder).lstrip("/") for url in names}


def find_inputs(inputs: Sequence[str], output_url: str | None) -> FoundInputs:
    """Find all images and videos.

    Args:
        inputs: files, folders (with everything below them), patterns, or s3:// URLs.
        output_url: folder of the results; what is in it is no input, unless it is named itself.

    Raises:
        PredictError: an input does not exist, or holds neither images nor videos.
        StorageError: a store cannot be read.
    """
    found = FoundInputs()
    names: set[str] = set()
    for each in inputs:
        count = 0
        for url, name in _expand(each, output_url or "", found.skipped):
            is_video = posixpath.splitext(url)[1].lower() in VIDEO_SUFFIXES
            files = found.videos if is_video else found.images
            files.append(InputFile(url, name, _unique(_drawn_name(name, is_video), names)))
            count += 1
        if not count:
            others = ", ".join(f"{number} {suffix}" for suffix, number in found.skipped.items())
            detail = f" (it has {others})" if others else ""
            raise PredictError(f"{each}: no image or video is there{detail}; check the path")
    return found


def _expand(item: str, output_url: str, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yield the URL and the relative name of each file of an input."""
    path = local_path(item)
    if path is None:
        yield from _expand_remote(item, output_url, skipped)
    elif path.is_dir():
        yield from _list_folder(str(path), output_url, skipped)
    elif path.exists():
        yield str(path), path.name
    elif any(character in item for character in _WILDCARDS):
        yield from _match_local(str(path), output_url, skipped)
    else:
        raise PredictError(f"{item}: no such file or folder")


def _expand_remote(url: str, output_url: str, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    wildcards = [url.find(character) for character in _WILDCARDS if character in url]
    if not wildcards:
        yield from _list_folder(url, output_url, skipped)
        return
    folder = url[: url.rindex("/", 0, min(wildcards))]
    for file, name in _list_folder(folder, output_url, skipped):
        if fnmatch.fnmatchcase(file, url):
            yield file, name


def _list_folder(url: str, output_url: str, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    listing = ImageListing(url, output_url, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
    for file in listing:
        yield file_url(url, file.name), file.name or posixpath.basename(url)
    skipped.update(listing.skipped)


def _match_local(pattern: str, output_url: str, skipped: Counter[str]) -> Iterator[tuple[str, str]]:
    first = min(pattern.find(character) for character in _WILDCARDS if character in pattern)
    root = Path(pattern[:first] + "x").parent
    output = local_path(output_url) if output_url else None
    for match in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 absolute patterns too
        path = Path(match)
        if output is not None and path.absolute().is_relative_to(output.absolute()):
            continue
        if path.is_file():
            yield match, os.path.relpath(match, root)
        elif "**" not in pattern:
            for url, name in _list_folder(match, output_url, skipped):
                yield url, posixpath.join(os.path.relpath(match, root), name)


def _drawn_name(name: str, is_video: bool) -> str:
    """Return the name of a result: JPEG stays JPEG, all other images become PNG."""
    stem, suffix = posixpath.splitext(name)
    if is_video:
        return f"{stem}.mp4"
    return name if suffix.lower() in (".jpg", ".jpeg") else f"{stem}.png"


def _unique(name: str, taken: set[str]) -> str:
    """Return the name, numbered if it is taken; macOS and Windows ignore case."""
    stem, suffix = posixpath.splitext(name)
    number = 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}_{number}{suffix}"
    taken.add(name.lower())
    return name
